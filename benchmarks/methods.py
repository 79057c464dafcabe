"""Compare label transfer with what a user would pick instead, and with the reference on pairs of growing divergence.

    python benchmarks/methods.py                                      everything that is not in the results yet
    python benchmarks/methods.py --methods ours --again               this package once more
    python benchmarks/methods.py --part divergence --seeds 0 1 2

Every method gets the same cells, in an environment of its own, made on the first call. Results are added to
`benchmarks/methods.json`; the tables in `benchmarks/README.md` and the figures are written from that file.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import harness
from harness import HERE, PAIRS, Record
from stages import read_species

if TYPE_CHECKING:
    import anndata as ad

RESULTS = HERE / "methods.json"
TAXA = {"mouse": 10090, "human": 9606}
PACKAGES = ("ours", "reference")  # these align counts of all genes; the others work on genes that both species have
SCVI = ("torch==2.13.0", "scvi-tools==1.4.2", "scanpy==1.11.5", "scikit-misc==0.5.3")
ENVIRONMENTS = {  # harmonypy 2 returns its matrix the other way round than scanpy 1.11 expects
    "scvi": (*SCVI, "harmonypy==0.0.10", "scanorama==1.7.4"),
    "scarches": (*SCVI, "scarches==0.6.1", "anndata==0.11.4", "zarr<3"),  # scArches imports names that went with 0.12
}
METHODS = {  # the environment of each
    "ours": "",
    "reference": "",
    "scANVI": "scvi",
    "sysVI": "scvi",
    "scPoli": "scarches",
    "Harmony": "scvi",
    "Scanorama": "scvi",
    "logistic regression": "scvi",
}
WITHOUT_SEED = ("Scanorama", "logistic regression")
TISSUES = {"pancreas": ("pancreas", "pancreas"), "immune": ("spleen", "blood")}
TASKS = [(pair, source) for pair in PAIRS for source in TAXA]
DIVERGENCES = tuple(np.linspace(0.05, 0.95, 10).round(2).tolist())  # at 1 the species share nothing


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", default=["methods", "divergence"], choices=["methods", "divergence"])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--seeds", type=int, nargs="*", help="0 1 2 unless told, for the divergence 0")
    parser.add_argument("--again", action="store_true", help="repeat runs that are in the results, and replace them")
    parser.add_argument("--epochs", type=int, default=30, help="of each training of this package and the reference")
    parser.add_argument("--threads", type=int, default=1, help="threads of each method")
    parser.add_argument("--data", type=Path, default=harness.DATA, help="folder of the .h5ad files")
    parser.add_argument("--reference", type=Path, default=harness.REFERENCE, help="environment of the reference")
    parser.add_argument("--environments", type=Path, default=HERE / ".environments", help="folder of the others")
    parser.add_argument("--report-only", action="store_true", help="write the report from the results there are")
    return parser.parse_args()


# ---------------------------------------------------------------- data


def read_pair(pair: str, folder: Path) -> dict[str, ad.AnnData]:
    """All genes of the mouse and the human dataset; the cells that `stages.py` takes, under the same names."""
    *files, label = PAIRS[pair]
    return {
        name: read_species(folder / file, label, "batch", n_genes=sys.maxsize, n_cells=None)
        for name, file in zip(TAXA, files, strict=True)
    }


def one_to_one(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs of orthologues in which neither gene has another partner."""
    pairs = pairs[["context", "target"]].drop_duplicates()
    return pairs[~pairs["context"].duplicated(keep=False) & ~pairs["target"].duplicated(keep=False)]


def write_shared(species: dict[str, ad.AnnData], homology: Path, folder: Path) -> list[Path]:
    """Save both species with their one-to-one orthologues only, under the mouse's names."""
    from scspecies.homology import orthologue_pairs

    genes = species["human"].var_names
    pairs = one_to_one(orthologue_pairs(genes, TAXA["mouse"], TAXA["human"], table=homology)[0])
    pairs = pairs[pairs["context"].isin(species["mouse"].var_names) & pairs["target"].isin(genes)]
    paths = []
    for name, side in (("mouse", "context"), ("human", "target")):
        shared = species[name][:, pairs[side]].copy()
        shared.var_names = pairs["context"].to_numpy()
        shared.obs = shared.obs.rename(columns={"b": "batch"})
        paths.append(folder / f"{name}.h5ad")
        shared.write_h5ad(paths[-1])
    return paths


# ---------------------------------------------------------------- runs


def scores(labels: pd.Series, truth: pd.Series, known: Iterable[str]) -> Record:
    """Balanced accuracy and macro F1 of the cells whose type the labelled species has; no label is a wrong one."""
    from sklearn.metrics import f1_score, recall_score

    if not set(labels.index) <= set(truth.index):
        raise ValueError(f"Expected labels of cells such as '{truth.index[0]}', found '{labels.index[0]}'.")
    truth = truth[truth.isin(set(known))]
    labels = labels.reindex(truth.index).fillna("").astype(str)
    of_types = {"labels": sorted(truth.unique()), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(recall_score(truth, labels, **of_types)),
        "f1": float(f1_score(truth, labels, **of_types)),
    }


def read_labels(path: Path) -> pd.Series:
    """Read labels by the names of the cells."""
    return pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)["label"]


def run_stages(
    method: str, paths: list[Path], homology: Path, options: argparse.Namespace, *extra: object
) -> tuple[pd.Series, float]:
    """Align with this package or the reference as far as the labels; returns them and the seconds."""
    ours = method == "ours"
    python = Path(sys.executable) if ours else harness.environment_python(options.reference, harness.REFERENCE_PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "labels.csv")
        words = [*paths, "--orthologues", homology, "--epochs", options.epochs, "--labels", out, *extra]
        words += ["--stop-after", "transfer"]
        record = harness.run_script(python, "stages.py", *words, threads=options.threads, project=ours)
        return read_labels(out), record["total"]


def run_packages(
    method: str, pair: str, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, pd.Series, float]]:
    """Both directions of a pair, one after the other, with this package or the reference."""
    homology = (options.data / harness.HOMOLOGY).resolve()
    *files, label = PAIRS[pair]
    names = list(TAXA)
    for source, order in zip(names, (1, -1), strict=True):
        paths = [(options.data / file).resolve() for file in files[::order]]
        taxa = [TAXA[name] for name in names[::order]]
        extra = ["--label", label, "--seed", seed, "--taxa", *taxa]
        yield source, *run_stages(method, paths, homology, options, *extra)


def run_other(
    method: str, paths: list[Path], seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, pd.Series, float]]:
    """Both directions of a pair with another method, which prepares once for both."""
    name = METHODS[method]
    python = harness.environment_python(options.environments / name, ENVIRONMENTS[name])
    with tempfile.TemporaryDirectory() as folder:
        words = [method, *paths, "--out", folder, "--seed", seed]
        record = harness.run_script(python, "other_methods.py", *words, threads=options.threads)
        for source, seconds in record["seconds"].items():
            yield source, read_labels(Path(folder, f"{source}.csv")), seconds


def transfer_both_ways(
    run: Record, paths: list[Path], options: argparse.Namespace
) -> Iterator[tuple[str, pd.Series, float]]:
    """Name of the labelled species, labels of the other's cells, and seconds; `paths` have the shared genes."""
    if run["method"] in PACKAGES:
        return run_packages(run["method"], run["pair"], run["seed"], options)
    return run_other(run["method"], paths, run["seed"], options)


def is_wanted(run: Record, records: list[Record], options: argparse.Namespace, n_records: int = 1) -> bool:
    """Whether a run has to be made: its records are not there yet, or are to be made again."""
    if run["method"] not in options.methods or (run["seed"] and run["method"] in WITHOUT_SEED):
        return False
    return options.again or sum(run.items() <= record.items() for record in records) < n_records


def keep(results: Record, part: str, key: Record, found: Record) -> None:
    """Save a record, in place of an older one of the same run."""
    others = [record for record in results.get(part, []) if not key.items() <= record.items()]
    results[part] = [*others, key | found]
    harness.write_results(results, RESULTS)
    print(*key.values(), f"{found['accuracy']:.3f}", f"{found['seconds']:.0f} s", sep="  ", flush=True)


def measure_methods(options: argparse.Namespace, results: Record) -> None:
    """Run what was asked for and is not there yet, pair by pair."""
    for pair in options.pairs:
        species = read_pair(pair, options.data)
        labels = {name: adata.obs["label"].astype(str) for name, adata in species.items()}
        with tempfile.TemporaryDirectory() as folder:
            paths = write_shared(species, options.data / harness.HOMOLOGY, Path(folder))
            for seed, method in itertools.product(options.seeds or (0, 1, 2), METHODS):
                run = {"method": method, "pair": pair, "seed": seed}
                if not is_wanted(run, results.get("methods", []), options, n_records=len(TAXA)):
                    continue
                for source, found, seconds in transfer_both_ways(run, paths, options):
                    (other,) = set(TAXA) - {source}
                    scored = scores(found, labels[other], labels[source])
                    keep(results, "methods", run | {"source": source}, scored | {"seconds": round(seconds, 1)})


def homology_table(orthologues: pd.DataFrame) -> pd.DataFrame:
    """Pairs of simulated orthologues in the layout of MGI's report: a class for each context gene."""
    classes = pd.factorize(orthologues["context"])[0]
    context = pd.DataFrame({"class": classes, "taxon": TAXA["mouse"], "symbol": orthologues["context"].to_numpy()})
    target = pd.DataFrame({"class": classes, "taxon": TAXA["human"], "symbol": orthologues["target"].to_numpy()})
    genes = pd.concat([context, target]).drop_duplicates().sort_values(["class", "taxon"], kind="stable")
    organism = {TAXA["mouse"]: "mouse, laboratory", TAXA["human"]: "human"}
    return pd.DataFrame(
        {
            "DB Class Key": genes["class"],
            "Common Organism Name": genes["taxon"].map(organism),
            "NCBI Taxon ID": genes["taxon"],
            "Symbol": genes["symbol"],
            "EntrezGene ID": range(len(genes)),
        }
    )


def write_simulated(divergence: float, seed: int, folder: Path) -> tuple[list[Path], Path, dict[str, pd.Series]]:
    """Save a simulated pair and its table of orthologues; also return the true types by the cells' new names."""
    from scspecies.datasets import synthetic_species

    pair = synthetic_species(divergence=divergence, seed=seed)
    homology = folder / "orthologues.rpt"
    homology_table(pair.orthologues).to_csv(homology, sep="\t", index=False)
    paths, labels = [], {}
    for name, adata in (("context", pair.context), ("target", pair.target)):
        paths.append(folder / f"{name}.h5ad")
        adata.write_h5ad(paths[-1])
        labels[name] = adata.obs["cell_type"].astype(str).set_axis([f"cell{i}" for i in range(adata.n_obs)])
    return paths, homology, labels


def measure_divergence(options: argparse.Namespace, results: Record) -> None:
    """Align simulated pairs with this package and the reference."""
    for seed, divergence in itertools.product(options.seeds or (0,), DIVERGENCES):
        with tempfile.TemporaryDirectory() as folder:
            paths, homology, labels = write_simulated(divergence, seed, Path(folder))
            for method in PACKAGES:
                run = {"method": method, "divergence": divergence, "seed": seed}
                if is_wanted(run, results.get("divergence", []), options):
                    found, seconds = run_stages(method, paths, homology, options, "--seed", seed)
                    scored = scores(found, labels["target"], labels["context"])
                    keep(results, "divergence", run, scored | {"seconds": round(seconds, 1)})


# ---------------------------------------------------------------- the report


def spread(values: Iterable[float]) -> str:
    """Mean of runs, and their standard deviation where there are several."""
    values = np.array(list(values))
    if not len(values):
        return "-"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def direction(pair: str, source: str) -> str:
    """Name a task as people do."""
    tissue = dict(zip(TAXA, TISSUES[pair], strict=True))
    (other,) = set(TAXA) - {source}
    if pair == "pancreas":
        return f"pancreas, {source} to {other}"
    return f"{source} {tissue[source]} to {other} {tissue[other]}"


def method_table(records: list[Record]) -> list[str]:
    """Balanced accuracy of each method on each task, with the means of both measures and of the times."""
    frame = pd.DataFrame(records)
    heads = [direction(*task) for task in TASKS]
    lines = [
        f"| | {' | '.join(heads)} | mean | mean macro F1 | seconds | runs of each |",
        "|---" * (len(TASKS) + 5) + "|",
    ]
    for method in [name for name in METHODS if name in set(frame["method"])]:
        runs = frame[frame["method"] == method]
        by_task = runs.groupby(["pair", "source"])
        cells = [spread(by_task["accuracy"].get_group(task)) if task in by_task.groups else "-" for task in TASKS]
        complete = len(by_task) == len(TASKS)
        means = [f"{by_task[key].mean().mean():.3f}" if complete else "-" for key in ("accuracy", "f1")]
        low, high = by_task.size().min(), by_task.size().max()
        count = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"| {method} | {' | '.join([*cells, *means])} | {runs['seconds'].mean():.0f} | {count} |")
    return lines


def area(divergence: np.ndarray, accuracy: np.ndarray) -> float:
    """Area under accuracy against divergence by trapezoids, over its width: the mean height of the curve."""
    return float(np.trapezoid(accuracy, divergence) / (divergence[-1] - divergence[0]))


def divergence_means(records: list[Record]) -> pd.DataFrame:
    """Mean accuracy over seeds, shape (divergences, packages); divergences that all packages have."""
    frame = pd.DataFrame(records)
    return frame.groupby(["divergence", "method"])["accuracy"].mean().unstack().dropna()


def divergence_table(records: list[Record]) -> list[str]:
    """Accuracy of both packages at each divergence, and the areas."""
    means = divergence_means(records)
    packages = [name for name in PACKAGES[::-1] if name in means]
    lines = [f"| divergence | {' | '.join(packages)} |", "|---" * (len(packages) + 1) + "|"]
    lines += [f"| {at:g} | {' | '.join(f'{row[name]:.3f}' for name in packages)} |" for at, row in means.iterrows()]
    areas = [f"**{area(means.index.to_numpy(), means[name].to_numpy()):.3f}**" for name in packages]
    return [*lines, f"| **area from {means.index[0]:g} to {means.index[-1]:g}** | {' | '.join(areas)} |"]


def draw_methods(records: list[Record], path: Path) -> None:
    """Every run a point, a panel for each task, a row for each method."""
    import matplotlib.pyplot as plt

    names = [name for name in METHODS if name in {record["method"] for record in records}]
    figure, axes = plt.subplots(1, len(TASKS), figsize=(11, 3), sharey=True, sharex=True, layout="constrained")
    for ax, task in zip(axes, TASKS, strict=True):
        runs = [r for r in records if (r["pair"], r["source"]) == task]
        for row, name in enumerate(names):
            values = [r["accuracy"] for r in runs if r["method"] == name]
            color = {"ours": "#D55E00", "reference": "#0072B2"}.get(name, "#555555")
            ax.plot(values, [row] * len(values), "o", color=color, alpha=0.6, markersize=6, markeredgewidth=0)
            ax.vlines(np.mean(values) if values else [], row - 0.3, row + 0.3, color=color, linewidth=2)
        ax.set_title(direction(*task), fontsize=9)
        ax.set_xlabel("balanced accuracy", fontsize=9)
        ax.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_divergence(records: list[Record], path: Path) -> None:
    """Accuracy against divergence, a line for each package."""
    import matplotlib.pyplot as plt

    means = divergence_means(records)
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, color in (("reference", "#0072B2"), ("ours", "#D55E00")):
        if name in means:
            label = f"{name}, area {area(means.index.to_numpy(), means[name].to_numpy()):.3f}"
            ax.plot(means.index, means[name], "o-", color=color, label=label, markersize=4)
    ax.set_xlabel("divergence of the simulated species")
    ax.set_ylabel("balanced accuracy")
    ax.set_ylim(0, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_report(results: Record) -> None:
    """Put tables into the README between their markers, and draw the figures."""
    parts = {}
    if results.get("methods"):
        parts["methods"] = method_table(results["methods"])
        draw_methods(results["methods"], HERE / "methods.png")
    if results.get("divergence"):
        parts["divergence"] = divergence_table(results["divergence"])
        draw_divergence(results["divergence"], HERE / "divergence.png")
    harness.write_report(parts)


def main() -> None:
    """Measure, then report."""
    options = arguments()
    results = harness.read_results(RESULTS)
    if not options.report_only:
        results["machine"] = harness.machine(options.threads) | {"epochs": options.epochs}
        if "methods" in options.part:
            measure_methods(options, results)
        if "divergence" in options.part:
            measure_divergence(options, results)
        harness.write_results(results, RESULTS)
    write_report(results)


if __name__ == "__main__":
    main()
