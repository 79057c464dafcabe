"""Comparison of cell types on the real pancreas: fold changes against pseudobulk, and the table of similarities."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from real_pairs import trained
from scspecies.models import scSpecies

pytestmark = pytest.mark.slow
QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def pancreas(shared_data: Path) -> scSpecies:
    """Mouse and human pancreas, trained and encoded."""
    return trained("pancreas", shared_data)


def pseudobulk(adata: ad.AnnData, cell_type: str, columns: np.ndarray) -> np.ndarray:
    """Mean over donors of the counts of a type, summed in a donor and normalised to 10,000."""
    of_donors = []
    for donor in adata.obs["batch"].unique():
        cells = (adata.obs["cell_type"] == cell_type) & (adata.obs["batch"] == donor)
        total = np.asarray(adata.X[cells.to_numpy()][:, columns].sum(axis=0)).ravel()
        if cells.sum() > 3:
            of_donors.append(1e4 * total / total.sum())
    return np.mean(of_donors, axis=0)


@pytest.mark.filterwarnings("ignore:Left out")
def test_called_genes_have_the_direction_of_pseudobulk(pancreas: scSpecies) -> None:
    """At least 85 % in every type, of the inferred fold changes and of those by the decoders alone."""
    changes = pancreas.compute_logfold_change(samples=2000, **QUIET)
    assert {"alpha", "beta", "delta", "ductal", "endothelial"} <= set(changes)
    agrees, agrees_alone = {}, {}
    for kind, table in changes.items():
        human, mouse = (
            pseudobulk(pancreas.mdata[species.key], kind, species.homologous)
            for species in (pancreas.target, pancreas.context)
        )
        up, called = human > mouse, table["called"].to_numpy()
        assert called.sum() > 20
        agrees[kind] = ((table["lfc_type"] > 0) == up)[called].mean()
        agrees_alone[kind] = ((table["lfc"] > 0) == up)[called].mean()
    assert min(agrees.values()) >= 0.95, agrees
    assert min(agrees_alone.values()) >= 0.85, agrees_alone


def test_shared_types_are_most_similar_to_themselves(pancreas: scSpecies) -> None:
    """The diagonal of the similarity table is the best of its row, whatever the scale."""
    for scale in ("none", "max", "min_max"):
        table = pancreas.return_similarity_df(300, 20, scale, **QUIET)
        shared = table.index.intersection(table.columns)
        assert len(shared) >= 5
        best = table.loc[shared].idxmax(axis=1)
        assert (best == shared).all(), best
