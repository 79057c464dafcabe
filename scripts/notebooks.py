"""Run the notebooks, each in a process of its own, and save or check their outputs.

    python scripts/notebooks.py                  run all notebooks and save their outputs
    python scripts/notebooks.py nbs/00_core.ipynb --check
    python scripts/notebooks.py --check --slow   also what is flagged `#| slow`

`--check` compares what is saved with a fresh run: pictures by presence, words exactly, times and paths not at all,
and numbers within a tolerance, since training differs a little from one processor to the next. Where a cell lacks
its data it prints one line that starts with `skipped:`; such a cell is not compared, except where `CI` is set.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "nbs"
WIDGET = "application/vnd.jupyter.widget-view+json"
SKIPPED = "skipped:"


class NotebookError(RuntimeError):
    """A cell failed. `summary` is its one line, `report` the whole traceback."""

    def __init__(self, notebook: Path, cell_number: int, summary: str, report: str):
        super().__init__(f"{show_path(notebook)}, cell {cell_number}: {summary}\n{report}")
        self.summary, self.report = summary, report


@dataclass(frozen=True)
class Tolerance:
    """Two numbers agree when they differ by at most `relative` of the larger one, or by at most `absolute`."""

    relative: float = 0.1
    absolute: float = 0.05

    def agree(self, a: str, b: str) -> bool:
        """Compare two numbers as they are written."""
        x, y = float(a), float(b)
        return abs(x - y) <= max(self.absolute, self.relative * max(abs(x), abs(y)))


def show_path(path: Path) -> str:
    """Return `path` as seen from the project's folder, where it lies inside."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# ---------------------------------------------------------------- which notebooks, which cells


def find_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return all notebooks below `folder`, without hidden folders and those that start with `_`."""
    found = (path.relative_to(folder) for path in folder.rglob("*.ipynb"))
    return [folder / path for path in sorted(found) if not any(part[0] in "._" for part in path.parts)]


def directives(source: str) -> dict[str, str]:
    """Return the `#| name` and `#| name: value` lines at the top of a cell."""
    found = {}
    for line in source.splitlines():
        match = re.match(r"\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*)", line)
        if match:
            found[match[1]] = match[2].strip()
        elif line.strip():
            break
    return found


def is_slow(notebook: NotebookNode) -> bool:
    """Whether the whole notebook is slow: its first code cell says so, or its front matter has `skip_exec`."""
    for cell in notebook.cells:
        if cell.cell_type != "code" and re.search(r"^\W*skip_exec\s*:\s*true\s*$", cell.source, re.M | re.I):
            return True
        if cell.cell_type == "code":
            return "slow" in directives(cell.source)
    return False


def is_run(cell: NotebookNode, slow: bool) -> bool:
    """Whether the cell is run: not when it is empty, exports the package, or is flagged against it."""
    if cell.cell_type != "code" or not cell.source.strip() or "nbdev_export(" in cell.source:
        return False
    flags = directives(cell.source)
    return not ("notest" in flags or flags.get("eval", "").lower() == "false" or ("slow" in flags and not slow))


# ---------------------------------------------------------------- running


def kernel_environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a kernel: this project's package first, this Python's kernel, few threads."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for one another leave the processors to others
    if threads:
        env |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    return env


class Client(NotebookClient):
    """Runs the cells of a notebook that `is_run` says are run; the others keep their outputs."""

    slow = False
    cell_number = 0

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, *args, **kwargs) -> NotebookNode:
        """Run one cell, or pass over it."""
        self.cell_number = cell_index + 1
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs) if is_run(cell, self.slow) else cell


def make_client(notebook: NotebookNode, path: Path, *, client_class: type[Client] = Client, **options) -> Client:
    """Return a client whose kernel starts in the folder of `path`, with the kernel of this very Python."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    resources = {"metadata": {"path": str(path.parent)}}
    return client_class(notebook, kernel_name="python3", resources=resources, record_timing=False, **options)


def execute(client: Client, path: Path, env: dict[str, str]) -> None:
    """Run a client's notebook in place; a cell that fails raises a `NotebookError`."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            if os.name == "posix":  # sockets of its own instead of ports that another kernel may take
                client.update_config(Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}))
            client.execute(env=env)
    except CellExecutionError as error:
        summary = f"{error.ename}: {strip_colours(error.evalue)}".strip().removesuffix(":")
        raise NotebookError(path, client.cell_number, summary, strip_colours(str(error))) from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(path, client.cell_number, str(error).splitlines()[0], str(error)) from None


def strip_colours(text: str) -> str:
    """Remove the terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run_notebook(path: Path, *, slow: bool = False, threads: int | None = None, timeout: int = 900) -> NotebookNode:
    """Return the notebook at `path` with fresh, cleaned outputs; cells that are not run keep the saved ones."""
    notebook = nbformat.read(path, as_version=4)
    client = make_client(notebook, path, timeout=timeout)
    client.slow = slow
    execute(client, path, kernel_environment(threads))
    return clean(notebook)


# ---------------------------------------------------------------- cleaning and saving


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run, in place: counts, progress bars, widgets, addresses, timings."""
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(display_name="python3", language="python", name="python3"))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.metadata = NotebookNode()
        cell.setdefault("id", hashlib.sha256(f"{number}{cell.source}".encode()).hexdigest()[:8])
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = clean_outputs(cell.outputs)
    return notebook


def clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs worth saving, with neighbouring text joined."""
    cleaned: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            add_text(cleaned, output)
        elif output.output_type == "error":
            cleaned.append(output)
        elif WIDGET not in output.data and any(output.data.values()):
            cleaned.append(clean_rich(output))
    return cleaned


def add_text(cleaned: list[NotebookNode], output: NotebookNode) -> None:
    """Append printed text; what went to stderr (progress bars, warnings) is not saved."""
    text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
    if output.name == "stderr" or not text.strip():
        return
    if cleaned and cleaned[-1].output_type == "stream":
        cleaned[-1].text += text
    else:
        cleaned.append(nbformat.v4.new_output("stream", name="stdout", text=text))


def clean_rich(output: NotebookNode) -> NotebookNode:
    """Return a picture, table or value without counts, addresses and trailing newlines of pictures.

    The size at which a picture is shown stays.
    """
    data = {
        kind: value.rstrip() if kind.startswith("image/") and "svg" not in kind else strip_address(value)
        for kind, value in output.data.items()
    }
    sizes = {kind: value for kind, value in output.metadata.items() if kind.startswith("image/")}
    return nbformat.v4.new_output(output.output_type, data=data, metadata=sizes)


def strip_address(value):
    """Remove the memory address from the text of an object."""
    return re.sub(r"(<.*?)( at 0x[0-9a-fA-F]+)(>)", r"\1\3", value) if isinstance(value, str) else value


def save(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook in the layout in which `nbdev_clean` leaves it."""
    content = json.loads(nbformat.writes(notebook))
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            for kind, value in output.get("data", {}).items():
                if kind.startswith("image/") and "svg" not in kind:
                    output["data"][kind] = "".join(value)
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- comparing

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?:[eE][-+]?\d+)?(?![\w])")
NOT_COMPARED = [
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?"), "<time>"),
    (re.compile(r"\b\d+:\d\d(:\d\d)?(\.\d+)?\b"), "<time>"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)?\s?(ns|µs|us|ms|s|sec|secs|seconds?|min|minutes?|it/s|s/it)\b"), "<time>"),
    (re.compile(r"(?<![\w/.:])(/[\w.+@~-]+){2,}/?"), "<path>"),
    (re.compile(r" at 0x[0-9a-fA-F]+"), ""),
]


def normalise(text: str) -> str:
    """Replace times, absolute paths and addresses, and let any white space be one blank."""
    for pattern, replacement in NOT_COMPARED:
        text = pattern.sub(replacement, text)
    return re.sub(r"\s+", " ", re.sub(r"[-=_─]{4,}", "----", text)).strip()


def parts(cell: NotebookNode) -> list[tuple[str, str]]:
    """Return what a cell shows as (kind, text) pairs; of a picture only that it is there."""
    shown = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            shown.append(("text", output.text))
        elif output.output_type == "error":
            shown.append(("error", output.ename))
        elif any(kind.startswith("image/") for kind in output.data):
            shown.append(("picture", ""))
        else:
            kind = next((k for k in ("text/html", "text/markdown", "text/latex") if k in output.data), "text/plain")
            shown.append((kind, re.sub(r"<style.*?</style>\s*", "", output.data.get(kind, ""), flags=re.S)))
    return shown


def words_and_numbers(text: str) -> tuple[list[str], list[str]]:
    """Split a normalised text into the words between its numbers, and the numbers."""
    text = normalise(text)
    words = [" ".join(word.split()) for word in NUMBER.split(text)]
    return words, [number.replace(",", "") for number in NUMBER.findall(text)]


def text_difference(saved: str, fresh: str, tolerance: Tolerance) -> str:
    """Return what differs between two texts in one line, or nothing."""
    (words, numbers), (new_words, new_numbers) = words_and_numbers(saved), words_and_numbers(fresh)
    if words != new_words:
        old, new = next((a, b) for a, b in zip_longest(words, new_words, fillvalue="nothing") if a != b)
        return f"the words differ: {old[:80]!r} is now {new[:80]!r}"
    far = [f"{a} is now {b}" for a, b in zip(numbers, new_numbers, strict=True) if not tolerance.agree(a, b)]
    return "; ".join(far[:5])


def cell_difference(saved: NotebookNode, fresh: NotebookNode, tolerance: Tolerance) -> str:
    """Return what differs between the outputs of one cell, or nothing."""
    old, new = parts(saved), parts(fresh)
    if not os.environ.get("CI") and any(text.lower().startswith(SKIPPED) for _, text in new):
        return ""
    if [kind for kind, _ in old] != [kind for kind, _ in new]:
        return f"saved are {describe(old)}, a fresh run gives {describe(new)}"
    found = (text_difference(a, b, tolerance) for (_, a), (_, b) in zip(old, new, strict=True))
    return next(filter(None, found), "")


def describe(shown: list[tuple[str, str]]) -> str:
    """Name the kinds of outputs."""
    return ", ".join(kind for kind, _ in shown) or "no outputs"


def compare(saved: NotebookNode, fresh: NotebookNode, tolerance: Tolerance = Tolerance()) -> list[str]:
    """Return one readable report for each cell whose saved outputs are not what a fresh run gives."""
    reports = []
    for number, (old, new) in enumerate(zip(saved.cells, fresh.cells, strict=True), 1):
        difference = cell_difference(old, new, tolerance)
        if difference:
            code = [line for line in old.source.splitlines() if line.strip() and not line.startswith("#")]
            reports.append(f"cell {number} `{(code or [''])[0]}`: {difference}\n{diff(old, new)}")
    return reports


def diff(saved: NotebookNode, fresh: NotebookNode, lines: int = 30) -> str:
    """Return the first lines of a unified diff of what two cells show."""
    old, new = ("\n".join(f"[{kind}] {text}" for kind, text in parts(cell)).splitlines() for cell in (saved, fresh))
    return "\n".join(
        "    " + line for line in list(difflib.unified_diff(old, new, "saved", "fresh", lineterm=""))[:lines]
    )


def check_notebook(path: Path, *, slow: bool = False, tolerance: Tolerance = Tolerance(), **options) -> list[str]:
    """Run the notebook at `path` and return where its saved outputs are not true; a slow one is not run."""
    saved = nbformat.read(path, as_version=4)
    if is_slow(saved) and not slow:
        return []
    return compare(saved, run_notebook(path, slow=slow, **options), tolerance)


# ---------------------------------------------------------------- the command


def save_notebook(path: Path, *, slow: bool = False, **options) -> list[str]:
    """Run the notebook at `path` and save its outputs; a slow one is only cleaned."""
    saved = nbformat.read(path, as_version=4)
    save(clean(saved) if is_slow(saved) and not slow else run_notebook(path, slow=slow, **options), path)
    return []


def threads_for(workers: int) -> int:
    """Return how many threads a kernel may use when `workers` of them run at once."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // workers)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--check", action="store_true", help="compare with the saved outputs, write nothing")
    parser.add_argument("--slow", action="store_true", help="also what is flagged `#| slow`")
    parser.add_argument("--workers", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for a cell (default 900)")
    parser.add_argument("--rtol", type=float, default=Tolerance.relative)
    parser.add_argument("--atol", type=float, default=Tolerance.absolute)
    return parser.parse_args()


def main() -> int:
    """Run, then save or check; return how many notebooks failed."""
    args = read_arguments()
    options = {"slow": args.slow, "timeout": args.timeout, "threads": threads_for(args.workers)}
    if args.check:
        options["tolerance"] = Tolerance(args.rtol, args.atol)
    work = check_notebook if args.check else save_notebook
    failed = 0
    with ThreadPoolExecutor(args.workers) as pool:
        jobs = {pool.submit(work, path.resolve(), **options): path for path in args.notebooks or find_notebooks()}
        for job in as_completed(jobs):
            failed += not report(jobs[job], job)
    return int(failed > 0)


def report(path: Path, job) -> bool:
    """Print how one notebook went; return whether it went well."""
    try:
        problems = job.result()
    except NotebookError as error:
        problems = [str(error)]
    print(f"{'FAILED' if problems else 'ok    '} {show_path(path)}", flush=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    return not problems


if __name__ == "__main__":
    sys.exit(main())
