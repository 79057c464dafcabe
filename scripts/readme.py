"""Write README.md from nbs/index.ipynb: its prose, its code, and its saved outputs, with pictures as files.

python scripts/readme.py            write README.md and index_files/
python scripts/readme.py --check    compare: the text exactly, the pictures by presence
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from notebooks import ROOT, directives

INDEX = ROOT / "nbs" / "index.ipynb"
PICTURES = "index_files"
HIDDEN = {"hide", "default_exp", "export"}
NOTICE = "<!-- Written from nbs/index.ipynb by `make readme`. -->\n"


@dataclass
class Readme:
    """A README in the making: its blocks of text, and its pictures by file name."""

    blocks: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole text."""
        return NOTICE + "\n" + "\n\n".join(block.strip("\n") for block in self.blocks) + "\n"


def make_readme(index: NotebookNode) -> Readme:
    """Turn the index notebook into a README."""
    readme = Readme()
    for cell in index.cells:
        flags = directives(cell.source) if cell.cell_type == "code" else {}
        if cell.cell_type == "markdown":
            readme.blocks.append(from_root(cell.source))
        elif cell.cell_type == "code" and not HIDDEN & flags.keys():
            add_code(readme, cell, flags)
    return readme


def from_root(text: str) -> str:
    """Let links that are relative to nbs/ be relative to the project's folder."""

    def move(match: re.Match) -> str:
        target = match[1]
        outside = re.match(r"[a-z][a-z0-9+.-]*:|//|#", target, re.I)
        return f"]({target})" if outside else f"]({os.path.normpath(os.path.join('nbs', target))})"

    return re.sub(r"\]\(([^)\s]+)\)", move, text)


def add_code(readme: Readme, cell: NotebookNode, flags: dict[str, str]) -> None:
    """Add a code cell and what it shows."""
    code = "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip()
    if code and flags.get("echo", "").lower() != "false":
        readme.blocks.append(f"```python\n{code}\n```")
    if flags.get("output", "").lower() != "false":
        for output in cell.outputs:
            add_output(readme, output)


def add_output(readme: Readme, output: NotebookNode) -> None:
    """Add one output: a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{PICTURES}/figure-{len(readme.pictures) + 1}.png"
        readme.pictures[name] = base64.b64decode(data["image/png"])
        readme.blocks.append(f"![]({name})")
    elif "text/markdown" in data:
        readme.blocks.append(data["text/markdown"])
    elif "text/html" in data:
        readme.blocks.append(re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.S))
    else:
        text = output.get("text", data.get("text/plain", "")).rstrip()
        readme.blocks.append("\n".join(f"    {line}".rstrip() for line in text.splitlines()))


def write(readme: Readme, root: Path = ROOT) -> None:
    """Write the README and its pictures, and delete pictures it no longer has."""
    for old in (root / PICTURES).glob("*.png"):
        old.unlink()
    for name, content in readme.pictures.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    (root / "README.md").write_text(readme.text, encoding="utf-8")


def differences(readme: Readme, root: Path = ROOT) -> list[str]:
    """Return one sentence for each thing in which README.md is not what the index notebook gives."""
    path = root / "README.md"
    saved = path.read_text(encoding="utf-8") if path.exists() else ""
    there = {str(picture.relative_to(root)) for picture in (root / PICTURES).glob("*.png")}
    found = ["README.md is not what nbs/index.ipynb gives."] if saved != readme.text else []
    return found + [f"{name} is missing or left over." for name in sorted(there ^ readme.pictures.keys())]


def main() -> int:
    """Write or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args()
    readme = make_readme(nbformat.read(INDEX, as_version=4))
    if not args.check:
        write(readme)
        return 0
    found = differences(readme)
    for problem in found:
        print(f"readme: {problem} Run `make readme`.", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
