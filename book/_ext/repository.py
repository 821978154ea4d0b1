"""Where the repository is: one setting, from which the book's links and the notebooks' first cells follow.

    python book/_ext/repository.py https://github.com/OWNER/NAME

writes it to `repository` in book/_config.yml, which makes Colab buttons and links to tests, and into the bootstrap cell
of each notebook, which in Colab installs the package from there; "" takes both away. A test keeps them together.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

SETTING = re.compile(r'^(    repository: )".*?"', re.MULTILINE)
CELL = re.compile(r'^REPOSITORY = ".*?"', re.MULTILINE)
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+|")


def setting(root: Path) -> str:
    """The address, empty for none."""
    found = SETTING.search((root / "book" / "_config.yml").read_text(encoding="utf-8"))
    assert found, "book/_config.yml has no repository"
    return found[0].split('"')[1]


def installed_from(address: str) -> str:
    """What pip is given in Colab."""
    return f"git+{address}" if address else ""


def write(root: Path, address: str) -> None:
    """Put an address everywhere. Raises ValueError for one that Colab could not open."""
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"{address!r} is not allowed: it must be https://github.com/OWNER/NAME, or empty")
    config = root / "book" / "_config.yml"
    config.write_text(SETTING.sub(rf'\g<1>"{address}"', config.read_text(encoding="utf-8")), encoding="utf-8")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if "bootstrap" in cell.metadata.get("tags", []):
                cell.source = CELL.sub(f'REPOSITORY = "{installed_from(address)}"', cell.source)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2], *sys.argv[1:])
