"""The two real pairs, prepared, trained and encoded; each once in a test run."""

from functools import cache
from pathlib import Path

import anndata as ad

from scspecies.models import scSpecies
from scspecies.preprocessing import create_mdata

PAIRS = {  # context, target, label
    "pancreas": ("baron_mouse_pancreas", "baron_human_pancreas_hvg2000", "cell_type"),
    "immune": ("mca_mouse_spleen", "pbmc3k_human_pbmc", "cell_type_broad"),
}


@cache
def trained(pair: str, folder: Path) -> scSpecies:
    """2,000 genes a side, 25 epochs each, all other settings defaults; labels transferred."""
    context_file, target_file, label = PAIRS[pair]
    builder = create_mdata(ad.read_h5ad(folder / f"{context_file}.h5ad"), "batch", label, n_top_genes=2000)
    builder.setup_target_adata(ad.read_h5ad(folder / f"{target_file}.h5ad"), "batch", label, n_top_genes=2000)
    model = scSpecies("cpu", builder.return_mdata(save=False), "unused", random_seed=0)
    model.train_context(25, save_model=False, show_progress=False)
    model.train_target(25, save_model=False, show_progress=False)
    model.get_representation("context")
    model.get_representation("target")
    model.transfer_labels_data(label, show_progress=False)
    return model
