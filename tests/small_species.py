"""Small datasets of two species, and how their cells are compared, step by step with dense arrays."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_GENES = 30
PAIRS = pd.DataFrame({"context": [f"m{i}" for i in range(N_GENES)], "target": [f"h{i}" for i in range(N_GENES)]})
NAMES = ["B cell", "T/NK cell", "Mast cell"]


def dataset(prefix, seed, n=120, genes=N_GENES):
    """Three cell types that differ in ten genes each, two donors."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    means = np.ones((n, genes))
    for k in range(3):
        means[kind == k, 10 * k : 10 * (k + 1)] = 5
    obs = pd.DataFrame(
        {
            "type": np.array(NAMES)[kind],
            "donor": np.where(np.arange(n) < n // 2, "z", "a"),
            "age": rng.integers(1, 9, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame({"length": np.arange(genes)}, index=[f"{prefix}{i}" for i in range(genes)])
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(means).astype(np.float32)), obs=obs, var=var)
    adata.obsm["spatial"] = rng.random((n, 2))
    adata.uns["source"] = {"lab": "x", "list": [1, 2]}
    return adata


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def uncentered_by_hand(x, y, log):
    return log(x), log(y)


def centered_by_hand(x, y, log, n_components=None, labels=None):
    """Cells at the median depth and scaled to length 1, genes centred; the context's directions by a full SVD."""
    depth = np.median([*x.sum(axis=1), *y.sum(axis=1)])
    x, y = (log(m / m.sum(axis=1, keepdims=True) * depth) for m in (x, y))
    x, y = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, y))
    size = 1 if labels is None else pd.Series(labels).map(pd.Series(labels).value_counts()).to_numpy()[:, None]
    axes = np.linalg.svd(x / np.sqrt(size), full_matrices=False)[2][:n_components].T
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return (x @ axes, y @ axes) if n_components else (x, y)
