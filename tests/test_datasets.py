"""Simulated species: what the truth says must be found again in the counts."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors

from scspecies.datasets import LINEAGES, SyntheticSpecies, synthetic_species


@pytest.fixture(scope="module")
def pair() -> SyntheticSpecies:
    return synthetic_species()


@pytest.fixture(scope="module")
def large() -> SyntheticSpecies:
    """Enough cells for means and variances of single genes."""
    return synthetic_species(6000, 5000, 300, n_types=4, batch_effect=0.5, library_size=1500, seed=3)


def sides(pair):
    return (pair.context, pair.context_truth), (pair.target, pair.target_truth)


def one_to_one(pair) -> pd.DataFrame:
    copies = pair.orthologues.groupby("context")["target"].count()
    return pair.orthologues[pair.orthologues["context"].map(copies) == 1]


def pseudobulk(adata, **where) -> pd.Series:
    rows = np.logical_and.reduce([adata.obs[key] == value for key, value in where.items()])
    return pd.Series(np.asarray(adata.X[rows].sum(axis=0)).ravel(), adata.var_names)


def test_datasets_are_raw_counts_with_clean_annotation(pair):
    for adata, n in ((pair.context, 1500), (pair.target, 1200)):
        assert adata.shape == (n, 1200)
        assert isinstance(adata.X, sp.csr_matrix) and adata.X.dtype == np.float32
        assert (adata.X.data == np.round(adata.X.data)).all() and adata.X.data.min() >= 1
        assert adata.X.getnnz(axis=1).min() > 0
        assert adata.obs_names.is_unique and adata.var_names.is_unique
        assert list(adata.obs) == ["cell_type", "lineage", "batch"] and not adata.obs.isna().any(axis=None)
    assert pair.context.obs["batch"].nunique() == 3 and pair.target.obs["batch"].nunique() == 2
    assert not set(pair.context.obs_names) & set(pair.target.obs_names)


def test_files_can_be_written_and_read(pair, tmp_path):
    pair.target.write_h5ad(tmp_path / "target.h5ad")
    back = ad.read_h5ad(tmp_path / "target.h5ad")
    assert (back.X != pair.target.X).nnz == 0 and back.obs.equals(pair.target.obs)


@pytest.mark.parametrize("seed", range(4))
def test_share_of_zeros_is_that_of_shallow_single_cell_data(seed):
    for adata, _ in sides(synthetic_species(seed=seed)):
        assert 0.8 < 1 - adata.X.nnz / np.prod(adata.shape) < 0.95


def test_each_species_has_one_private_type_and_one_type_is_rare(pair):
    context, target = set(pair.context.obs["cell_type"]), set(pair.target.obs["cell_type"])
    assert context & target == set(pair.shared_types) and len(pair.shared_types) == 8
    assert len(context - target) == len(target - context) == 1
    assert any("/" in kind for kind in context & target) and any(" " in kind for kind in context & target)
    for adata in (pair.context, pair.target):
        share = adata.obs["cell_type"].value_counts(normalize=True)
        assert 0.03 < share.min() < 0.05 and share.max() > 5 * share.min()
        assert share.idxmin() == pair.shared_types[-1]
        lineage = adata.obs.groupby("cell_type", observed=True)["lineage"].nunique()
        assert (lineage == 1).all()
        assert set(adata.obs["lineage"]) <= set(LINEAGES)
    assert pair.context.obs["cell_type"].mode()[0] != pair.target.obs["cell_type"].mode()[0]


def test_orthologue_table(pair):
    table = pair.orthologues
    assert list(table) == ["context", "target"]
    assert table["context"].isin(pair.context.var_names).all() and table["target"].isin(pair.target.var_names).all()
    assert table["target"].is_unique
    assert table["context"].value_counts().value_counts().to_dict() == {1: 840, 2: 60}
    assert len(set(pair.context.var_names) - set(table["context"])) == 300
    assert len(set(pair.target.var_names) - set(table["target"])) == 240
    assert not set(pair.context.var_names) & set(pair.target.var_names)
    position = [pair.target.var_names.get_loc(gene) for gene in one_to_one(pair)["target"]]
    assert np.any(np.diff(position) < 0)  # columns are not in the order of the context


def test_truth_is_aligned_with_the_data(pair):
    for adata, truth in sides(pair):
        assert truth.expression.index.equals(adata.var_names)
        assert truth.batch_effect.index.equals(adata.var_names)
        assert truth.inverse_dispersion.index.equals(adata.var_names)
        assert truth.library_size.index.equals(adata.obs_names)
        assert set(truth.expression.columns) == set(adata.obs["cell_type"])
        assert np.allclose(truth.expression.sum(), 1)
        assert np.allclose(truth.batch_effect.sum(axis=1), 0)


def test_fold_change_by_hand(pair):
    genes = one_to_one(pair)
    kind = "T/NK cell"
    in_context = {gene: pair.context_truth.expression.loc[gene, kind] for gene in genes["context"]}
    in_target = {gene: pair.target_truth.expression.loc[gene, kind] for gene in genes["target"]}
    for context_gene, target_gene in list(zip(genes["context"], genes["target"], strict=True))[::200]:
        share = in_target[target_gene] / sum(in_target.values()), in_context[context_gene] / sum(in_context.values())
        assert np.isclose(pair.log_fold_change.loc[context_gene, kind], np.log2(share[0] / share[1]))
    assert list(pair.log_fold_change.index) == list(genes["context"])


def log_share(adata, kind: str, genes: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Log2 share of each gene in cells of a type, mean over batches, and the counts behind it."""
    bulks = [pseudobulk(adata, cell_type=kind, batch=name)[genes].to_numpy() for name in adata.obs["batch"].unique()]
    return np.mean([np.log2((bulk + 0.5) / bulk.sum()) for bulk in bulks], axis=0), np.sum(bulks, axis=0)


def test_fold_change_is_in_the_counts(large):
    """Sums over the cells of a type, one batch as heavy as the other, reproduce the stated fold changes."""
    genes = one_to_one(large)
    for kind in large.shared_types:
        of_context, counts = log_share(large.context, kind, genes["context"])
        of_target, target_counts = log_share(large.target, kind, genes["target"])
        well = (counts >= 100) & (target_counts >= 100)
        observed, stated = (of_target - of_context)[well], large.log_fold_change[kind].to_numpy()[well]
        fit = stats.linregress(stated, observed)
        assert well.sum() > 20 and fit.rvalue > 0.95
        assert abs(fit.slope - 1) < 0.1 and abs(np.median(observed - stated)) < 0.2


def test_fold_change_of_default_pair_is_in_the_counts(pair):
    genes, kind = one_to_one(pair), pair.context.obs["cell_type"].mode()[0]
    of_context, counts = log_share(pair.context, kind, genes["context"])
    of_target, target_counts = log_share(pair.target, kind, genes["target"])
    well = (counts >= 50) & (target_counts >= 50)
    stated = pair.log_fold_change[kind].to_numpy()[well]
    assert well.sum() > 50 and np.corrcoef((of_target - of_context)[well], stated)[0, 1] > 0.9


def test_batch_effect_is_in_the_counts(large):
    truth, (one, two) = large.context_truth, large.context.obs["batch"].cat.categories[:2]
    kind = large.context.obs["cell_type"].mode()[0]
    first, second = (pseudobulk(large.context, cell_type=kind, batch=batch) for batch in (one, two))
    well = (first >= 50) & (second >= 50)
    observed = np.log(second / second.sum())[well] - np.log(first / first.sum())[well]
    stated = (truth.batch_effect[two] - truth.batch_effect[one])[well]
    assert well.sum() > 50 and np.corrcoef(observed, stated)[0, 1] > 0.9
    assert (synthetic_species(100, 100, 50, batch_effect=0).context_truth.batch_effect == 0).all(axis=None)


def test_counts_are_negative_binomial(large):
    """Squared residuals have the variance of the negative binomial; a Poisson distribution would be far off."""
    for adata, truth in sides(large):
        mu, x = truth.mean(adata.obs), adata.X.toarray()
        alpha = truth.inverse_dispersion.to_numpy()
        known = mu.sum(axis=0) > 1000
        residual = (x - mu)[:, known] ** 2
        assert np.isclose((residual / (mu + mu**2 / alpha)[:, known]).mean(), 1, atol=0.05)
        assert (residual / mu[:, known]).mean() > 1.5
        zeros = stats.nbinom.pmf(0, alpha, alpha / (alpha + mu))
        assert np.isclose((x == 0).mean(), zeros.mean(), atol=0.003)
        of_gene = np.abs((x == 0).mean(axis=0) - zeros.mean(axis=0))
        assert of_gene.max() < 0.05


def test_mean_by_hand(large):
    truth, cell = large.target_truth, large.target.obs.iloc[[17]]
    weight = {
        gene: truth.expression.loc[gene, cell["cell_type"].iloc[0]]
        * np.exp(truth.batch_effect.loc[gene, cell["batch"].iloc[0]])
        for gene in truth.expression.index
    }
    expected = [truth.library_size[cell.index[0]] * value / sum(weight.values()) for value in weight.values()]
    assert np.allclose(truth.mean(cell)[0], expected)


def test_library_sizes_are_log_normal_in_each_batch(large):
    for adata, truth in sides(large):
        log_library = np.log(truth.library_size)
        for _, values in log_library.groupby(adata.obs["batch"], observed=True):
            assert np.isclose(values.std(), 0.4, atol=0.03) and abs(stats.skew(values)) < 0.15
        totals = np.log(np.asarray(adata.X.sum(axis=1)).ravel())
        assert np.corrcoef(totals, log_library)[0, 1] > 0.9 and abs(np.mean(totals - log_library)) < 0.05


def test_dropout_loses_its_share():
    whole, thinned = (synthetic_species(3000, 100, 200, library_size=2000, dropout=p).context for p in (0.0, 0.25))
    assert np.isclose(thinned.X.sum() / whole.X.sum(), 0.75, atol=0.02)
    assert np.isclose(thinned.X.nnz / whole.X.nnz, 0.75, atol=0.02)


def test_types_of_a_lineage_are_related(pair):
    genes = np.log(pair.context_truth.expression)
    correlation = genes.sub(genes.mean(axis=1), axis=0).corr()
    lineage = pair.context.obs.groupby("cell_type", observed=True)["lineage"].first().astype(str)[correlation.index]
    same = np.equal.outer(lineage.to_numpy(), lineage.to_numpy())
    values, off_diagonal = correlation.to_numpy(), ~np.eye(len(lineage), dtype=bool)
    assert values[same & off_diagonal].mean() > values[~same].mean() + 0.2


@pytest.mark.parametrize("divergence", [0.1, 0.3, 0.6])
def test_divergence_is_the_share_of_variance_of_its_own(divergence):
    pair = synthetic_species(100, 100, 4000, divergence=divergence)
    genes, kind = one_to_one(pair), pair.shared_types[0]
    logs = [
        np.log(truth.expression.loc[genes[column], kind].to_numpy())
        for truth, column in ((pair.context_truth, "context"), (pair.target_truth, "target"))
    ]
    assert np.isclose(np.corrcoef(*logs)[0, 1], np.sqrt(1 - divergence), atol=0.03)
    assert np.isclose(logs[0].std(), logs[1].std(), rtol=0.06)


def test_no_divergence_means_equal_expression():
    pair = synthetic_species(100, 100, 200, divergence=0)
    assert np.allclose(pair.log_fold_change, 0)
    genes = one_to_one(pair)
    scale = [
        truth.expression.loc[genes[column], pair.shared_types].sum()
        for truth, column in ((pair.context_truth, "context"), (pair.target_truth, "target"))
    ]
    copies = pair.orthologues[pair.orthologues["context"].duplicated(keep=False)]
    together = (pair.target_truth.expression[pair.shared_types] / scale[1]).loc[copies["target"]]
    together = together.groupby(copies["context"].to_numpy()).sum()
    parent = (pair.context_truth.expression[pair.shared_types] / scale[0]).loc[together.index]
    assert len(together) == 10 and np.allclose(together, parent)  # two copies share the expression of their ancestor


def test_data_level_neighbours_do_well_but_not_perfectly(pair):
    genes = one_to_one(pair)
    search = NearestNeighbors(n_neighbors=25, metric="cosine").fit(pair.context[:, genes["context"]].X.log1p())
    nearest = search.kneighbors(pair.target[:, genes["target"]].X.log1p(), return_distance=False)
    votes = pair.context.obs["cell_type"].astype(str).to_numpy()[nearest]
    predicted = pd.DataFrame(votes).mode(axis=1)[0].to_numpy(str)
    cell_type = pair.target.obs["cell_type"].to_numpy(str)
    accuracy = recall_score(cell_type, predicted, labels=pair.shared_types, average="macro", zero_division=0)
    assert 0.75 < accuracy < 0.92
    lineage = pd.concat([pair.context.obs, pair.target.obs]).groupby("cell_type", observed=True)["lineage"].first()
    shared = np.isin(cell_type, pair.shared_types)
    wrong = shared & (predicted != cell_type)
    related = lineage[predicted[wrong]].to_numpy() == lineage[cell_type[wrong]].to_numpy()
    assert wrong.sum() > 50 and related.mean() > 0.8  # a cell is taken for a relative, not for anything


def test_same_seed_same_data_and_no_global_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (synthetic_species(200, 150, 100, seed=seed) for seed in (5, 5, 6))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    for (first, truth), (second, same), (third, _) in zip(sides(one), sides(two), sides(other), strict=True):
        assert (first.X != second.X).nnz == 0 and first.obs.equals(second.obs) and first.var.equals(second.var)
        assert truth.expression.equals(same.expression)
        assert (first.X != third.X).nnz > 0


def test_context_does_not_depend_on_the_target():
    one = synthetic_species(300, 100, 100, seed=2)
    two = synthetic_species(300, 250, 100, divergence=0.9, n_batches=(3, 4), seed=2)
    assert (one.context.X != two.context.X).nnz == 0 and one.context.obs.equals(two.context.obs)


@pytest.mark.parametrize(
    "options",
    [
        {"n_types": 2, "n_batches": (1, 1)},
        {"n_types": 12, "n_batches": (2, 5), "dropout": 0.5},
        {"share_one_to_one": 1.0, "share_one_to_many": 0.0},
        {"share_one_to_one": 0.1, "share_one_to_many": 0.45},
        {"divergence": 1.0, "batch_effect": 0.0},
    ],
)
def test_corners(options):
    pair = synthetic_species(2100, 150, 60, seed=1, **options)
    n_types = options.get("n_types", 8)
    assert pair.context.shape == (2100, 60) and pair.target.shape == (150, 60)
    assert pair.context.obs["cell_type"].nunique() == pair.target.obs["cell_type"].nunique() == n_types + 1
    assert len(pair.log_fold_change) == len(one_to_one(pair)) > 0
    assert np.isfinite(pair.log_fold_change).all(axis=None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_context": 50}, ValueError, "Expected `n_context` to be a whole number of at least 100, found 50."),
        ({"n_target": 200.5}, TypeError, "Expected `n_target` to be a whole number, found 200.5."),
        ({"n_genes": 5}, ValueError, "Expected `n_genes` to be a whole number of at least 20, found 5."),
        ({"n_types": 1}, ValueError, "Expected `n_types` to be a whole number between 2 and 12, found 1."),
        (
            {"n_batches": 3},
            TypeError,
            "to be two numbers, of the context and the target, found 3.",
        ),
        ({"n_batches": (1, 2, 3)}, ValueError, "of the context and the target, found (1, 2, 3)."),
        ({"n_batches": (3, 0)}, ValueError, "Expected `n_batches` to be a whole number of at least 1, found 0."),
        ({"divergence": -0.1}, ValueError, "Expected `divergence` to be a number between 0 and 1, found -0.1."),
        ({"share_one_to_one": 0.0}, ValueError, "found none for 0 of 100 genes. Raise `share_one_to_one`."),
        ({"share_one_to_one": 0.8, "share_one_to_many": 0.2}, ValueError, "to be at most 1, found 0.8 and 0.2."),
        ({"share_one_to_one": 0.001}, ValueError, "Expected at least one gene with exactly one orthologue"),
        ({"library_size": 10}, ValueError, "Expected `library_size` to be a number of at least 100, found 10."),
        ({"batch_effect": -1}, ValueError, "Expected `batch_effect` to be a number of at least 0, found -1."),
        ({"dropout": 1.0}, ValueError, "Expected `dropout` to be a number between 0 and 0.9, found 1.0."),
        ({"seed": -1}, ValueError, "Expected `seed` to be a whole number of at least 0, found -1."),
    ],
)
def test_impossible_requests_are_refused(options, error, message):
    with pytest.raises(error) as raised:
        synthetic_species(**{"n_context": 100, "n_target": 100, "n_genes": 100, **options})
    assert message in str(raised.value)
