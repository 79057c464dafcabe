"""Time the stages of one alignment and print one line of JSON.

    python benchmarks/stages.py CONTEXT.h5ad TARGET.h5ad --label cell_type --orthologues TABLE.rpt

The package is the `scspecies` of the environment that runs this file: this project, or the reference 0.1.4, whose
public names are the same. So both do the same on the same cells, genes and labels.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

warnings.filterwarnings("ignore")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("context", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--orthologues", type=Path, required=True, help="table in the layout of MGI's report")
    parser.add_argument("--label", default="cell_type", help="column of cell types")
    parser.add_argument("--batch", default="batch", help="column of batches")
    parser.add_argument("--taxa", type=int, nargs=2, default=(10090, 9606), help="NCBI taxa of context and target")
    parser.add_argument("--genes", type=int, default=4000, help="variable genes of each species")
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, nargs=2, help="cells of context and target, by repeating or leaving out")
    parser.add_argument("--lfc-samples", type=int, default=5000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stop-after", default="lfc", help="name of the last stage")
    parser.add_argument("--labels", type=Path, help="where to write the label of each target cell, as CSV")
    return parser.parse_args()


def read_species(path: Path, label: str, batch: str, n_genes: int, n_cells: int | None):
    """Read counts with labels and batches: types with 15 cells or more, variable genes, and so many cells."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scanpy as sc

    adata = ad.read_h5ad(path)
    labels = adata.obs[label].astype(str)
    adata = adata[labels.isin(labels.value_counts().loc[lambda n: n >= 15].index)].copy()
    if adata.n_vars > n_genes:
        logged = adata.copy()
        sc.pp.normalize_total(logged, target_sum=1e4)
        sc.pp.log1p(logged)
        sc.pp.highly_variable_genes(logged, n_top_genes=n_genes)
        adata = adata[:, logged.var["highly_variable"]].copy()
    rows = np.arange(adata.n_obs)
    if n_cells:
        copies = -(-n_cells // adata.n_obs)
        rows = np.random.default_rng(0).permutation(np.tile(rows, copies))[:n_cells]
    obs = {
        name: pd.Categorical(adata.obs[key].astype(str).to_numpy()[rows])
        for name, key in (("label", label), ("b", batch))
    }
    frame = pd.DataFrame(obs, index=[f"cell{i}" for i in range(len(rows))])
    return ad.AnnData(adata.X[rows].astype(np.float32), obs=frame, var=pd.DataFrame(index=adata.var_names.astype(str)))


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; note the peak memory of the process after it."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.peaks[name] = peak_mb()


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def align(context, target, options: argparse.Namespace, clock: Clock) -> dict[str, object]:
    """Go through all stages, one after the other."""
    with clock.stage("import"):
        from scspecies.models import scSpecies
        from scspecies.preprocessing import create_mdata
    few = {"min_cell_type_size": 5, "min_batch_size": 5, "min_non_zero_genes": 0.002}
    with clock.stage("prepare"):
        builder = create_mdata(context, "b", "label", NCBI_Taxon_ID=options.taxa[0], **few)
        setup = functools.partial(builder.setup_target_adata, target, "b", "label", NCBI_Taxon_ID=options.taxa[1])
        if "orthologues" in inspect.signature(setup).parameters:  # the reference finds the table in its folder
            setup = functools.partial(setup, orthologues=Path("data", "HOM_AllOrganism.rpt"))
        setup()
        mdata = builder.return_mdata(save=True)
    base = peak_mb()
    model = scSpecies(options.device, mdata, "out/", random_seed=options.seed)
    with clock.stage("train_context"):
        model.train_context(options.epochs, save_model=False)
        model.get_representation("context", save_intermediate=True, save_libsize=True)
    with clock.stage("train_target"):
        model.train_target(options.epochs, save_model=False)
        model.get_representation("target", save_intermediate=True, save_libsize=True)
    result = {"cells": [mdata["mouse"].n_obs, mdata["human"].n_obs], "genes": context.n_vars, "base_mb": base}
    later = {
        "transfer": lambda: model.transfer_labels_data("label"),
        "cell-type table": model.return_similarity_df,
        "lfc": lambda: model.compute_logfold_change(samples=options.lfc_samples),
    }
    for name, stage in later.items():
        if options.stop_after in clock.seconds:
            break
        with clock.stage(name):
            stage()
    if options.labels:
        labels = mdata["human"].obs["pred_sim_label"].rename("label")
        names = labels.index.str.removeprefix("human:").str.removesuffix("_human")  # ours and the reference add these
        labels.set_axis(names).to_csv(options.labels)
    return result | accuracies(mdata["mouse"].obs, mdata["human"].obs)


def accuracies(context, target) -> dict[str, float]:
    """Balanced accuracy over shared types, of the data-level guess and of the transferred labels."""
    from sklearn.metrics import balanced_accuracy_score

    truth = target["label"].astype(str)
    shared = truth.isin(context["label"].astype(str))
    columns = {"accuracy_data_level": "pred_nns_label", "accuracy": "pred_sim_label"}
    return {
        name: balanced_accuracy_score(truth[shared], target.loc[shared, key].astype(str))
        for name, key in columns.items()
        if key in target
    }


def main() -> None:
    """Run in a folder of its own, since the reference writes into the working folder."""
    options = arguments()
    sizes = options.cells or (None, None)
    species = [
        read_species(path, options.label, options.batch, options.genes, size)
        for path, size in zip((options.context, options.target), sizes, strict=True)
    ]
    clock, before = Clock(), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").mkdir()
        shutil.copy(options.orthologues, Path(folder, "data", "HOM_AllOrganism.rpt"))
        os.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = align(*species, options, clock)
        os.chdir("/")
    total = sum(value for name, value in clock.seconds.items() if name != "import")
    print(json.dumps({**result, "seconds": clock.seconds, "total": total, "input_mb": before, "peak_mb": clock.peaks}))


if __name__ == "__main__":
    main()
