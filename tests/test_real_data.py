"""The main job on the real pairs: mouse and human pancreas, mouse spleen and human blood.

One seed of each, the pancreas with fewer epochs; the tutorial on real data has the full figures of three seeds.
A single seed varies by more than 0.1, so the thresholds are the lowest that a working transfer gave: they find a
transfer that is broken, not one that is a little worse. On the immune pair that is the vote on the counts (0.676).
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from scspecies.models import scSpecies
from scspecies.preprocessing import create_mdata

PAIRS = {
    # context, target, label, genes, epochs of each fit, balanced accuracy to reach
    "pancreas": ("baron_mouse_pancreas", "baron_human_pancreas_hvg2000", "cell_type", 2000, 20, 0.85),
    "immune": ("mca_mouse_spleen", "pbmc3k_human_pbmc", "cell_type_broad", 4000, 30, 0.68),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.filterwarnings("ignore:.*removed.*")
def test_labels_move_from_mouse_to_human(pair: str, shared_data: Path, tmp_path: Path) -> None:
    """Balanced accuracy over shared labels is at least that of a working transfer."""
    context_file, target_file, label, n_genes, epochs, enough = PAIRS[pair]
    builder = create_mdata(ad.read_h5ad(shared_data / f"{context_file}.h5ad"), "batch", label, n_top_genes=n_genes)
    builder.setup_target_adata(ad.read_h5ad(shared_data / f"{target_file}.h5ad"), "batch", label, n_top_genes=n_genes)
    model = scSpecies("cpu", builder.return_mdata(save=False), tmp_path, random_seed=0)
    model.train_context(epochs, save_model=False, show_progress=False)
    model.train_target(epochs, save_model=False, show_progress=False)
    model.get_representation("context")
    model.get_representation("target")
    model.transfer_labels_data(label, show_progress=False)

    _, accuracy = model.ret_pred_df(f"pred_sim_{label}", label, label)

    assert accuracy >= enough

    truth = model.mdata["human"].obs[label].astype(str).to_numpy()
    shared = np.isin(truth, model.mdata["mouse"].obs[label].astype(str).unique())
    predicted = model.mdata["human"].obs[f"pred_sim_{label}"].astype(str).to_numpy()
    assert accuracy == pytest.approx(balanced_accuracy_score(truth[shared], predicted[shared]))
