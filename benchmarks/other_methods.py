"""Transfer labels between two species, both ways, with a method that a user may choose instead.

    python benchmarks/other_methods.py Harmony MOUSE.h5ad HUMAN.h5ad --out FOLDER

Runs inside the environment of the method, so it imports nothing of this project. Both files have the same genes:
one-to-one orthologues under one name. `obs` has 'label' and 'batch'; labels of the side that is predicted are never
shown to the method. Prints the seconds of each direction as one line of JSON, and writes `FOLDER/<direction>.csv`.

Settings are those of the method's own tutorial for this use; the docstring of each function says which.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

warnings.filterwarnings("ignore")
SPECIES = ("mouse", "human")  # first and second file
UNKNOWN = "unknown"
N_GENES = 2000
Transfer = Callable[[str], np.ndarray]  # from the name of the labelled species to labels of the other's cells


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("mouse", type=Path)
    parser.add_argument("human", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the labels")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---------------------------------------------------------------- data


def read_joint(paths: list[Path]) -> ad.AnnData:
    """Both species in one table, those of the first file first; 'sample' tells batches of both apart."""
    joint = ad.concat([ad.read_h5ad(path) for path in paths], label="species", keys=SPECIES, index_unique="-")
    joint.obs["sample"] = pd.Categorical(joint.obs["species"].astype(str) + " " + joint.obs["batch"].astype(str))
    joint.obs["label"] = joint.obs["label"].astype(str)
    order = np.argsort(joint.obs["sample"].cat.codes.to_numpy(), kind="stable")  # Scanorama wants samples in one piece
    return joint[order].copy()


def of_species(joint: ad.AnnData, name: str) -> np.ndarray:
    """Which rows are cells of a species."""
    return (joint.obs["species"] == name).to_numpy()


def variable_genes(joint: ad.AnnData) -> ad.AnnData:
    """Keep 2,000 genes that vary in both species, found on counts as in the tutorials of scvi-tools."""
    n_cells = [np.asarray((joint.X[of_species(joint, name)] > 0).sum(axis=0)).ravel() for name in SPECIES]
    joint = joint[:, np.minimum(*n_cells) >= 3].copy()
    if joint.n_vars > N_GENES:
        sc.pp.highly_variable_genes(joint, flavor="seurat_v3", n_top_genes=N_GENES, batch_key="species", subset=True)
    return joint


def log_normalized(joint: ad.AnnData) -> ad.AnnData:
    """Counts per ten thousand, log1p."""
    logged = joint.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    return logged


def labels_of(joint: ad.AnnData, source: str) -> np.ndarray:
    """Labels with those of the other species hidden."""
    return np.where(of_species(joint, source), joint.obs["label"], UNKNOWN)


def neighbor_vote(joint: ad.AnnData, latent: np.ndarray) -> Transfer:
    """Majority of the 25 nearest labelled cells in the integrated space."""
    from sklearn.neighbors import KNeighborsClassifier

    def transfer(source: str) -> np.ndarray:
        known = of_species(joint, source)
        return KNeighborsClassifier(25).fit(latent[known], joint.obs["label"][known]).predict(latent[~known])

    return transfer


# ---------------------------------------------------------------- methods


def scanvi(joint: ad.AnnData, seed: int) -> Transfer:
    """Pretrain scVI on both species with samples as batches, then scANVI ('Integration and label transfer')."""
    import scvi

    scvi.settings.seed = seed
    joint = variable_genes(joint)
    scvi.model.SCVI.setup_anndata(joint, batch_key="sample")
    pretrained = scvi.model.SCVI(joint, n_layers=2, n_latent=30)
    pretrained.train(accelerator="cpu", enable_progress_bar=False)

    def transfer(source: str) -> np.ndarray:
        joint.obs["known"] = labels_of(joint, source)
        model = scvi.model.SCANVI.from_scvi_model(pretrained, UNKNOWN, labels_key="known", adata=joint)
        model.train(max_epochs=20, n_samples_per_label=100, accelerator="cpu", enable_progress_bar=False)
        return np.asarray(model.predict(joint))[~of_species(joint, source)]

    return transfer


def sysvi(joint: ad.AnnData, seed: int) -> Transfer:
    """Species as system, samples as covariate, 200 epochs and a cycle loss of 5 as in its tutorial; then a vote."""
    import scvi

    scvi.settings.seed = seed
    logged = log_normalized(joint)[:, variable_genes(joint).var_names].copy()
    samples = ["sample"] if logged.obs["sample"].nunique() > len(SPECIES) else None
    scvi.external.SysVI.setup_anndata(logged, batch_key="species", categorical_covariate_keys=samples)
    model = scvi.external.SysVI(logged)
    plan = {"z_distance_cycle_weight": 5}
    model.train(max_epochs=200, plan_kwargs=plan, accelerator="cpu", enable_progress_bar=False)
    return neighbor_vote(joint, model.get_latent_representation(logged))


def scpoli(joint: ad.AnnData, seed: int) -> Transfer:
    """Reference of 40 + 10 epochs, the query mapped in 40 + 10 more, nearest prototype ('label transfer')."""
    import torch
    from scarches.models.scpoli import scPoli

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (it draws from the global state)
    joint = variable_genes(joint)
    joint.X = joint.X.toarray()
    stopping = {
        "early_stopping_metric": "val_prototype_loss",
        "mode": "min",
        "threshold": 0,
        "patience": 20,
        "reduce_lr": True,
        "lr_patience": 13,
        "lr_factor": 0.1,
    }

    def transfer(source: str) -> np.ndarray:
        joint.obs["known"] = labels_of(joint, source)
        known = of_species(joint, source)
        reference, query = joint[known].copy(), joint[~known].copy()
        keys = {"condition_keys": "sample", "cell_type_keys": "known"}
        model = scPoli(adata=reference, **keys, embedding_dims=5, recon_loss="nb")
        model.train(n_epochs=50, pretraining_epochs=40, early_stopping_kwargs=stopping, eta=5)
        mapped = scPoli.load_query_data(adata=query, reference_model=model, labeled_indices=[])
        mapped.train(n_epochs=50, pretraining_epochs=40, eta=10)
        return np.asarray(mapped.classify(query)["known"]["preds"])

    return transfer


def components(joint: ad.AnnData, seed: int) -> ad.AnnData:
    """Fifty principal components of log expression, the start of both methods below.

    Genes are not scaled to unit variance over both species: that lowered the mean over the four tasks of both.
    """
    logged = log_normalized(joint)[:, variable_genes(joint).var_names].copy()
    sc.pp.pca(logged, n_comps=50, random_state=seed)
    return logged


def harmony(joint: ad.AnnData, seed: int) -> Transfer:
    """Harmony of the samples through scanpy's external API, then a vote."""
    cells = components(joint, seed)
    sc.external.pp.harmony_integrate(cells, "sample", random_state=seed)
    return neighbor_vote(cells, cells.obsm["X_pca_harmony"])


def scanorama(joint: ad.AnnData, seed: int) -> Transfer:
    """Scanorama of the samples through scanpy's external API, then a vote."""
    cells = components(joint, seed)
    sc.external.pp.scanorama_integrate(cells, "sample", verbose=False)
    return neighbor_vote(cells, cells.obsm["X_scanorama"])


def logistic_regression(joint: ad.AnnData, seed: int) -> Transfer:
    """All shared genes, log-normalised and standardised species by species."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    logged = log_normalized(joint)

    def expression(name: str) -> np.ndarray:
        return StandardScaler().fit_transform(logged.X[of_species(logged, name)].toarray())

    def transfer(source: str) -> np.ndarray:
        (other,) = set(SPECIES) - {source}
        known = joint.obs["label"][of_species(joint, source)]
        model = LogisticRegression(max_iter=1000, random_state=seed).fit(expression(source), known)
        return model.predict(expression(other))

    return transfer


METHODS: dict[str, tuple[Callable[[ad.AnnData, int], Transfer], str]] = {  # and what to import before the clock starts
    "scANVI": (scanvi, "scvi"),
    "sysVI": (sysvi, "scvi"),
    "scPoli": (scpoli, "scarches.models.scpoli"),
    "Harmony": (harmony, "harmonypy"),
    "Scanorama": (scanorama, "scanorama"),
    "logistic regression": (logistic_regression, "sklearn.linear_model"),
}


def main() -> None:
    """Prepare once, transfer both ways; the time of a direction is that of its own part and of what both share."""
    options = arguments()
    logging.disable(logging.WARNING)
    method, module = METHODS[options.method]
    joint = read_joint([options.mouse, options.human])
    seconds = {}
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(module)
        start = time.perf_counter()
        transfer = method(joint, options.seed)
        shared = time.perf_counter() - start
        for source in SPECIES:
            start = time.perf_counter()
            labels = transfer(source)
            seconds[source] = shared + time.perf_counter() - start
            cells = joint.obs_names[~of_species(joint, source)].str.rsplit("-", n=1).str[0]
            pd.Series(labels, cells, name="label").to_csv(options.out / f"{source}.csv")
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
