"""Run this package and the reference 0.1.4 in turn on the same data, and write tables and figures of the ratios.

    python benchmarks/compare.py                   all parts
    python benchmarks/compare.py --repeats 1 --parts pairs

`pairs`: both pairs, the packages alternating. `two_threads`: the same once, with two threads. `growth`: this package
with more and more cells. `large`: both with many cells, one epoch. `atlas`: this package as it would be used on many.

The reference shares its import name with this project, so it gets an environment of its own, made on the first call.
Results go to `benchmarks/results.json`; `benchmarks/README.md` and the figures are written from that file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from statistics import median

import harness
from harness import HERE, PAIRS, Record

RESULTS = HERE / "results.json"
STAGES = ("prepare", "train_context", "train_target", "transfer", "cell-type table", "lfc")
SIZES = (5_000, 10_000, 20_000, 40_000)
LARGE = (40_000, 35_000)  # context and target cells of the comparison of memory
ATLAS = (40_000, 32_000)
PARTS = ("pairs", "two_threads", "growth", "large", "atlas")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=harness.DATA, help="folder of the .h5ad files")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each package on each pair")
    parser.add_argument("--epochs", type=int, default=30, help="of each training on the pairs")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both packages")
    parser.add_argument("--device", default="cpu", help="of both packages, such as 'cuda'")
    parser.add_argument("--reference", type=Path, default=harness.REFERENCE, help="environment of the reference")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--report-only", action="store_true", help="write the report from the results there are")
    return parser.parse_args()


def run(package: str, pair: str, options: argparse.Namespace, *extra: object, threads: int | None = None) -> Record:
    """Run all stages of one package on one pair, in a process of its own."""
    threads = threads or options.threads
    context, target, label = PAIRS[pair]
    ours = package == "ours"
    python = Path(sys.executable) if ours else harness.environment_python(options.reference, harness.REFERENCE_PACKAGES)
    paths = [options.data / name for name in (context, target)]
    words = [*paths, "--orthologues", options.data / harness.HOMOLOGY, "--label", label]
    words += ["--device", options.device, *extra]
    result = harness.run_script(python, "stages.py", *words, threads=threads, project=ours)
    record = {"package": package, "pair": pair, "threads": threads, **result}
    print(f"{package:9} {pair:8} {record['total']:7.1f} s  {max(record['peak_mb'].values()):7.0f} MB", flush=True)
    return record


def alternate(options: argparse.Namespace, repeats: int, threads: int) -> list[Record]:
    """Run both packages on both pairs, the one or the other first."""
    order = ("ours", "reference")
    return [
        run(package, pair, options, "--epochs", options.epochs, "--seed", repeat, threads=threads)
        for pair in PAIRS
        for repeat in range(repeats)
        for package in (order if repeat % 2 == 0 else order[::-1])
    ]


def measure(options: argparse.Namespace, results: Record) -> None:
    """Make the runs that were asked for, and keep the results of those that were not."""
    if "pairs" in options.parts:
        sizes = {"epochs": options.epochs, "repeats": options.repeats}
        results["machine"] = harness.machine(options.threads) | sizes
        results["pairs"] = alternate(options, options.repeats, options.threads)
    if "two_threads" in options.parts:
        results["two_threads"] = alternate(options, repeats=1, threads=2)
    if "growth" in options.parts:
        results["growth"] = [run("ours", "pancreas", options, "--epochs", 2, "--cells", n, n) for n in SIZES]
    if "large" in options.parts:
        large = ("--epochs", 1, "--cells", *LARGE)
        results["large"] = [run(package, "pancreas", options, *large) for package in ("ours", "reference")]
    if "atlas" in options.parts:
        results["atlas"] = [run("ours", "pancreas", options, "--epochs", options.epochs, "--cells", *ATLAS)]


# ---------------------------------------------------------------- the report


def seconds(record: Record, stage: str) -> float:
    """Seconds of a stage, or of all."""
    return record["total"] if stage == "together" else record["seconds"][stage]


def pair_table(records: list[Record]) -> list[str]:
    """Medians of each stage and their ratio, pair by pair."""
    lines = ["| pair | stage | reference, s | ours, s | ratio |", "|---|---|---|---|---|"]
    for pair in PAIRS:
        for stage in (*STAGES, "together"):
            theirs, ours = medians(records, pair, stage)
            lines.append(f"| {pair} | {stage} | {theirs:.2f} | {ours:.2f} | **{theirs / ours:.1f}** |")
    return lines


def medians(records: list[Record], pair: str, stage: str) -> tuple[float, float]:
    """Median seconds of the reference and of ours."""
    reference, ours = (
        median(seconds(r, stage) for r in records if (r["package"], r["pair"]) == (package, pair))
        for package in ("reference", "ours")
    )
    return reference, ours


def accuracy_table(records: list[Record]) -> list[str]:
    """Accuracy and memory of each run."""
    lines = [
        "| pair | package | cells | balanced accuracy, run by run | peak memory, MB | target cells a second |",
        "|---|---|---|---|---|---|",
    ]
    for pair in PAIRS:
        for package in ("reference", "ours"):
            runs = [r for r in records if (r["package"], r["pair"]) == (package, pair)]
            accuracy = ", ".join(f"{r['accuracy']:.3f}" for r in runs)
            peak = median(max(r["peak_mb"].values()) for r in runs)
            cells, speed = runs[0]["cells"], runs[0]["cells"][1] / median(r["total"] for r in runs)
            lines.append(
                f"| {pair} | {package} | {cells[0]:,} + {cells[1]:,} | {accuracy} | {peak:,.0f} | {speed:,.0f} |"
            )
    return lines


def exponent(records: list[Record], values: list[float]) -> float:
    """Slope of log value against log number of cells."""
    import numpy as np

    return float(np.polyfit(np.log([sum(r["cells"]) for r in records]), np.log(values), 1)[0])


def growth_table(records: list[Record]) -> list[str]:
    """Seconds and memory against the number of cells, with the fitted exponents."""
    names = (*STAGES, "together")
    lines = ["| cells of each species | " + " | ".join(names) + " | peak, MB | above the input, MB |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for r in records:
        times = " | ".join(f"{seconds(r, name):.1f}" for name in names)
        peak = max(r["peak_mb"].values())
        lines.append(f"| {r['cells'][0]:,} | {times} | {peak:,.0f} | {peak - r['input_mb']:,.0f} |")
    slopes = " | ".join(f"{exponent(records, [seconds(r, name) for r in records]):.2f}" for name in names)
    peaks = [max(r["peak_mb"].values()) for r in records]
    above = [peak - r["input_mb"] for peak, r in zip(peaks, records, strict=True)]
    lines.append(f"| exponent | {slopes} | {exponent(records, peaks):.2f} | {exponent(records, above):.2f} |")
    return lines


def large_table(records: list[Record]) -> list[str]:
    """Both packages on the large copies."""
    ours, reference = (next(r for r in records if r["package"] == package) for package in ("ours", "reference"))
    lines = ["| | reference | ours | ratio |", "|---|---|---|---|"]
    for stage in (*STAGES, "together"):
        theirs, mine = seconds(reference, stage), seconds(ours, stage)
        lines.append(f"| {stage}, s | {theirs:,.0f} | {mine:,.1f} | {theirs / mine:.1f} |")
    theirs, mine = (max(r["peak_mb"].values()) for r in (reference, ours))
    lines.append(f"| peak memory, MB | {theirs:,.0f} | {mine:,.0f} | {theirs / mine:.1f} |")
    theirs, mine = (max(r["peak_mb"].values()) - r["input_mb"] for r in (reference, ours))
    lines.append(f"| above what Python and the input take, MB | {theirs:,.0f} | {mine:,.0f} | {theirs / mine:.1f} |")
    lines.append(f"| balanced accuracy | {reference['accuracy']:.3f} | {ours['accuracy']:.3f} | |")
    return lines


def atlas_table(records: list[Record]) -> list[str]:
    """Seconds of each stage on many cells, with as many epochs as a user would take."""
    (record,) = records
    lines = ["| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {seconds(record, stage):,.0f} |" for stage in (*STAGES, "together")]
    return [*lines, f"| peak memory, MB | {max(record['peak_mb'].values()):,.0f} |"]


def draw_ratios(records: list[Record], path: Path) -> None:
    """Bars of the ratio of each stage, one colour a pair."""
    import matplotlib.pyplot as plt
    import numpy as np

    names = (*STAGES, "together")
    figure, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for i, (pair, color) in enumerate(zip(PAIRS, ("#0072B2", "#E69F00"), strict=True)):
        ratios = [theirs / ours for theirs, ours in (medians(records, pair, name) for name in names)]
        bars = ax.barh(np.arange(len(names)) + 0.4 * i - 0.2, ratios, height=0.38, label=pair, color=color)
        ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlim(0.8, ax.get_xlim()[1] * 1.6)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("time of the reference / time of this package")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def write_report(results: Record) -> None:
    """Put tables into the README between their markers, and draw the figure."""
    machine = results["machine"]
    parts = {
        "machine": [
            f"{machine['threads']} threads, Python {machine['python']}, {machine['system']}; {machine['epochs']} + "
            f"{machine['epochs']} epochs, medians of {machine['repeats']} alternations."
        ]
    }
    tables = {"two_threads": pair_table, "growth": growth_table, "large": large_table, "atlas": atlas_table}
    parts |= {name: table(results[name]) for name, table in tables.items() if name in results}
    if "pairs" in results:
        parts |= {"pairs": pair_table(results["pairs"]), "accuracy": accuracy_table(results["pairs"])}
        draw_ratios(results["pairs"], HERE / "ratios.png")
    harness.write_report(parts)


def main() -> None:
    """Measure, then report."""
    options = arguments()
    results = harness.read_results(RESULTS)
    if not options.report_only:
        measure(options, results)
        harness.write_results(results, RESULTS)
    write_report(results)


if __name__ == "__main__":
    main()
