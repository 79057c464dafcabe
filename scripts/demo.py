"""Run the main job, the quickstart notebook, on the simulated pair or on your own two files.

    python scripts/demo.py
    python scripts/demo.py --context mouse.h5ad --target human.h5ad --cell-key cell_type --batch-key batch

The settings reach the notebook as environment variables SCSPECIES_DEMO_*; one that is not given is not set.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from notebooks import ROOT, Client, NotebookError, clean, execute, kernel_environment, make_client

QUICKSTART = ROOT / "nbs" / "tutorials" / "quickstart.ipynb"
PREFIX = "SCSPECIES_DEMO_"
RESULTS = ["aligned.h5mu", "predicted_labels.csv"]
# scripts that a page would fetch from the network, for formulas, widgets and diagrams; it reads well without them
FROM_NETWORK = ["mathjax_url", "require_js_url", "jquery_url", "jupyter_widgets_base_url"]
DIAGRAMS = re.compile(r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', re.S)


# ---------------------------------------------------------------- settings


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; an empty value is one that is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = {"type": lambda text: text or None}
    parser.add_argument("--context", **given, help="h5ad file of the annotated species")
    parser.add_argument("--target", **given, help="h5ad file of the other species")
    parser.add_argument("--cell-key", **given, help="column of `obs` with the cell types of the context")
    parser.add_argument("--batch-key", **given, help="column of `obs` with the batches of both files")
    parser.add_argument("--context-name", **given, help="name of the context (the notebook's default: mouse)")
    parser.add_argument("--target-name", **given, help="name of the target (the notebook's default: human)")
    parser.add_argument("--context-taxon", **given, help="NCBI taxon of the context (mouse: 10090)")
    parser.add_argument("--target-taxon", **given, help="NCBI taxon of the target (human: 9606)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")
    parser.add_argument("--notebook", type=Path, default=QUICKSTART, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def find_problem(args: argparse.Namespace) -> str:
    """Return what is wrong with the arguments in one sentence, or nothing."""
    if bool(args.context) != bool(args.target):
        given, missing = ("CONTEXT", "TARGET") if args.context else ("TARGET", "CONTEXT")
        return f"Expected CONTEXT and TARGET to be given together, found only {given}; add {missing}=<file.h5ad>."
    for name in ("context", "target"):
        file = getattr(args, name)
        if file and not Path(file).is_file():
            return f"Expected {name.upper()} to be an existing .h5ad file, found `{file}`."
        if file and Path(file).suffix != ".h5ad":
            return f"Expected {name.upper()} to end in .h5ad, found `{file}`."
        taxon = getattr(args, f"{name}_taxon")
        if taxon and not taxon.isdigit():
            return f"Expected {name.upper()}_TAXON to be an NCBI taxon number such as 10090, found `{taxon}`."
    return find_key_problem(args)


def find_key_problem(args: argparse.Namespace) -> str:
    """Return what is wrong with the two column names, or nothing."""
    keys = {"CELL_KEY": args.cell_key, "BATCH_KEY": args.batch_key}
    if args.context and not args.cell_key:
        return "Expected CELL_KEY to name the column of `obs` with the context's cell types, found nothing."
    given = [name for name, key in keys.items() if key]
    if given and not args.context:
        return f"Expected CONTEXT and TARGET together with {given[0]}, found neither."
    return ""


def settings(args: argparse.Namespace) -> dict[str, str]:
    """Return the notebook's settings as environment variables, files as absolute paths."""
    values = {name: getattr(args, name) for name in vars(args) if name not in ("out", "notebook")}
    values |= {name: str(Path(values[name]).resolve()) for name in ("context", "target") if values[name]}
    values["out"] = str(args.out.resolve())
    return {PREFIX + name.upper(): value for name, value in values.items() if value}


# ---------------------------------------------------------------- progress


class TalkingClient(Client):
    """Runs a notebook and says on the terminal where it is."""

    def announce(self) -> None:
        """Set up the numbers of the code cells and prepare the clock."""
        self.started = time.perf_counter()
        self.cells = [i for i, cell in enumerate(self.nb.cells) if cell.cell_type == "code"]
        self.on_cell_start = self.say_start
        self.on_cell_executed = self.say_end

    def say_start(self, cell: NotebookNode, cell_index: int) -> None:
        """Print the number and the heading of the cell that starts."""
        self.line = f"[{self.cells.index(cell_index) + 1:>2}/{len(self.cells)}] {heading(self.nb.cells, cell_index)}"
        self.cell_started = time.perf_counter()
        self.say_live("...")

    def say_end(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        """Print how long the cell took."""
        now = time.perf_counter()
        clear = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{clear}{self.line}  {now - self.cell_started:.1f} s (total {now - self.started:.0f} s)", flush=True)

    def say_live(self, text: str) -> None:
        """Show `text` behind the current line, on a terminal only."""
        if sys.stdout.isatty():
            print(f"\r\x1b[K{self.line}  {text}"[: shutil.get_terminal_size().columns + 4], end="", flush=True)

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Pass a running progress bar, as text or as a widget, on to the terminal."""
        text = progress_text(msg)
        if text:
            self.say_live(text)
        return super().process_message(msg, cell, cell_index)


def progress_text(message: dict) -> str:
    """Return what a progress bar says in a message of the kernel, or nothing."""
    content = message.get("content", {})
    if message.get("msg_type") == "stream" and content.get("name") == "stderr":
        return content["text"].rstrip().rsplit("\r", 1)[-1].splitlines()[-1].strip() if content["text"].strip() else ""
    if message.get("msg_type") == "comm_msg":
        value = content.get("data", {}).get("state", {}).get("value")
        return html.unescape(re.sub(r"<[^>]+>", " ", value)).strip() if isinstance(value, str) else ""
    return ""


def heading(cells: list[NotebookNode], index: int) -> str:
    """Return the last heading above a cell."""
    above = "\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    found = re.findall(r"^#+ +(.+)$", above, re.M)
    return found[-1].strip() if found else "Start"


# ---------------------------------------------------------------- results


def to_html(notebook: NotebookNode) -> str:
    """Return the executed notebook as one page that needs nothing else to be shown, pictures included."""
    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"name": "scspecies quickstart"}}
    for name in FROM_NETWORK:
        setattr(exporter, name, "")
    return DIAGRAMS.sub("", exporter.from_notebook_node(notebook, resources)[0])


def size(path: Path) -> str:
    """Return the size of a file with its unit."""
    return (
        f"{path.stat().st_size / 1e6:.1f} MB" if path.stat().st_size >= 1e5 else f"{path.stat().st_size / 1e3:.1f} kB"
    )


def run(args: argparse.Namespace) -> list[Path]:
    """Run the notebook and return the files it left."""
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [*RESULTS, "quickstart.html", "quickstart.log"]:
        (args.out / name).unlink(missing_ok=True)
    notebook = nbformat.read(args.notebook, as_version=4)
    client = make_client(notebook, args.notebook, client_class=TalkingClient, timeout=None)
    client.announce()
    inherited = {name: value for name, value in kernel_environment().items() if not name.startswith(PREFIX)}
    execute(client, args.notebook, inherited | settings(args))
    page = args.out / "quickstart.html"
    page.write_text(to_html(clean(notebook)), encoding="utf-8")
    return [page, *(args.out / name for name in RESULTS)]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 when everything is there."""
    args = read_arguments(arguments)
    problem = find_problem(args)
    if problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 2
    pair = f"{args.context} and {args.target}" if args.context else "the simulated pair"
    print(f"Aligning {pair}. The results go to {args.out.resolve()}", flush=True)
    try:
        files = run(args)
    except NotebookError as error:
        log = args.out / "quickstart.log"
        log.write_text(error.report, encoding="utf-8")
        print(f"\ndemo: {error.summary}\nThe whole traceback is in {log.resolve()}", file=sys.stderr)
        return 1
    return show(files)


def show(files: list[Path]) -> int:
    """Print where each file is; return 1 where one is missing."""
    print("\nDone:")
    for file in files:
        print(f"  {file.resolve()}  ({size(file) if file.exists() else 'MISSING'})")
    return int(not all(file.exists() for file in files))


if __name__ == "__main__":
    sys.exit(main())
