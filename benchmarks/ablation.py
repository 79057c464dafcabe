"""Train with each part of the method switched off, and note how many labels are right.

    python benchmarks/ablation.py                     every run that is not in the results yet
    python benchmarks/ablation.py --seeds 0 --again   one seed once more

A run is one pair of species in one direction, one seed and one variant. Results are added to
`benchmarks/ablation.json`, which the tutorial `nbs/tutorials/ablation.ipynb` shows.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import harness
from harness import HERE, PAIRS, Record

RESULTS = HERE / "ablation.json"
TAXA = {"mouse": 10090, "human": 9606}
N_GENES = 2000


def guess_without(**options: Any) -> Callable[[], Iterator[Any]]:
    """Switch parts of the first guess."""

    def patches() -> Iterator[Any]:
        from scspecies import matching

        yield patch.object(matching, "first_guess", functools.partial(matching.first_guess, **options))

    return patches


def median_depth() -> Iterator[Any]:
    """Guess by expression at the median depth of the cells."""
    from scspecies import matching

    yield patch.object(matching, "DEPTH", None)


def best_fifth_only() -> Iterator[Any]:
    """Trust the best 20 % of each label, however sure the others are."""
    from scspecies import matching

    believe, ranked = matching.believe, matching._ranked

    def by_rank(types: Any, probabilities: Any, *, lost: Any = None) -> Any:
        labels, _ = believe(types, probabilities, lost=lost)
        return labels, ranked(probabilities.argmax(axis=1), probabilities.max(axis=1), lost)

    yield patch.object(matching, "believe", by_rank)


def candidates_of_any_type() -> Iterator[Any]:
    """Leave the candidates in the order of their distance, whatever label the cell was guessed to have."""
    from scspecies import matching

    yield patch.object(matching, "_own_label_first", lambda ours, theirs, *_: (ours, theirs))


def nothing() -> Iterator[Any]:
    """Change nothing."""
    yield from ()


# what is switched: options of `setup_target_adata`, and functions that are replaced for the run
VARIANTS: dict[str, tuple[Record, Callable[[], Iterator[Any]]]] = {
    "as it is": ({}, nothing),
    "matching='centered'": ({"matching": "centered"}, nothing),
    "matching='reference'": ({"matching": "reference"}, nothing),
    "one_to_many=False": ({"one_to_many": False}, nothing),
    "guess: target centred over cells": ({}, guess_without(rounds=0)),
    "guess: no second classifier": ({}, guess_without(self_taught=False)),
    "guess: 300 genes only": ({}, guess_without(n_genes=(300,))),
    "guess: at the median depth": ({}, median_depth),
    "alignment: best 20 % trusted": ({}, best_fifth_only),
    "alignment: candidates of any type": ({}, candidates_of_any_type),
}


def run(pair: str, source: str, seed: int, variant: str, *, data: Path, epochs: int) -> Record:
    """Align one pair in this process; the balanced accuracy over shared types of guess, votes and final labels."""
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(harness.ROOT))
    import anndata as ad
    import torch
    from sklearn.metrics import recall_score

    from scspecies.models import scSpecies
    from scspecies.preprocessing import create_mdata

    torch.set_num_threads(1)
    *files, label = PAIRS[pair]
    species = {name: ad.read_h5ad(data / file) for name, file in zip(TAXA, files, strict=True)}
    target = next(name for name in TAXA if name != source)
    options, patches = VARIANTS[variant]
    with ExitStack() as stack:
        for part in patches():
            stack.enter_context(part)
        builder = create_mdata(species[source], "batch", label, source, TAXA[source], n_top_genes=N_GENES)
        few = {"min_cell_type_size": 1, "min_batch_size": 1, "n_top_genes": N_GENES}
        builder.setup_target_adata(species[target], "batch", label, None, target, TAXA[target], **few, **options)
    with tempfile.TemporaryDirectory() as folder:
        mdata = builder.return_mdata(save=False)
        model = scSpecies("cpu", mdata, folder, random_seed=seed, context_key=source, target_key=target)
        for train in (model.train_context, model.train_target):
            train(epochs, save_model=False, show_progress=False)
    for which in ("context", "target"):
        model.get_representation(which)
    shared = sorted(set(mdata[source].obs[label].astype(str)) & set(mdata[target].obs[label].astype(str)))

    def accuracy(key: str) -> float:
        found = mdata[target].obs
        return float(recall_score(found[label].astype(str), found[key].astype(str), labels=shared, average="macro"))

    result = {}
    for by, name in (("votes", "votes"), ("probability", "labels")):
        model.transfer_labels_data(label, labels_by=by, show_progress=False)
        result[name] = accuracy(f"pred_sim_{label}")
    return {"guess": accuracy(f"pred_nns_{label}"), **result}


def _run(job: tuple[str, str, int, str], **options: Any) -> tuple[Record, Record]:
    """Name the result of a run."""
    return dict(zip(("pair", "source", "seed", "variant"), job, strict=True)), run(*job, **options)


def main() -> None:
    """Do the runs that are missing, some at a time, and save each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--again", action="store_true", help="repeat runs that are in the results, and replace them")
    parser.add_argument("--epochs", type=int, default=25, help="of each training")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="runs at a time")
    parser.add_argument("--data", type=Path, default=harness.DATA, help="folder of the .h5ad files")
    options = parser.parse_args()
    results = harness.read_results(RESULTS) or {"epochs": options.epochs, "n_genes": N_GENES, "runs": []}
    jobs = [
        (p, s, seed, v) for seed, v, p, s in itertools.product(options.seeds, options.variants, options.pairs, TAXA)
    ]
    done = {tuple(record[key] for key in ("pair", "source", "seed", "variant")) for record in results["runs"]}
    jobs = [job for job in jobs if options.again or job not in done]
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    work = functools.partial(_run, data=options.data, epochs=options.epochs)
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        for name, scores in pool.imap_unordered(work, jobs):
            kept = [record for record in results["runs"] if any(record[key] != name[key] for key in name)]
            results["runs"] = [*kept, name | scores]
            harness.write_results(results, RESULTS)
            print(*name.values(), *(f"{key} {value:.3f}" for key, value in scores.items()), flush=True)


if __name__ == "__main__":
    main()
