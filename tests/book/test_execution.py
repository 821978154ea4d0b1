"""An executed notebook is kept until something changes that decides what comes out."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from builder import BOOK, ROOT

sys.path.insert(0, str(BOOK / "_ext"))
execution: Any = pytest.importorskip("execution", reason="the extra `notebooks` is not installed")

CELLS = [
    "number: int = 1",
    "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path.cwd()))\nimport sharp_maml_core.params",
    "import matplotlib.pyplot as plt\nimport pandas as pd\n"
    "found = [float(path.read_text()) for path in sorted(Path('book/results').glob('*.json'))]\n"
    "plt.plot([0, 1], [number, found[0]], label='line')\nplt.xlabel('x')\nplt.show()",
    "pd.DataFrame({'a': [1.5, float('nan')]})",
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkout with one notebook, which was executed once."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "sharp_maml_core", root / "sharp_maml_core", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "book" / "results").mkdir(parents=True)
    (root / "book" / "results" / "one.json").write_text("2")
    (root / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(CELLS)]
    cells[0].metadata["tags"] = ["parameters"]
    cells.append(nbformat.v4.new_markdown_cell("Prose.", id="prose"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / "one.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        for name, place in {"ROOT": root, "NOTEBOOKS": root / "notebooks", "KEPT": root / "book" / ".executed"}.items():
            patch.setattr(execution, name, place)
        execution.executed("one", {"number": 3})
        yield root


def is_kept(parameters: dict[str, Any] | None = None) -> bool:
    key = execution._key("one", {"number": 3} if parameters is None else parameters)
    return execution._is_valid(execution.KEPT / "one.ipynb", key)


def test_its_figures_and_tables_come_with_their_numbers(notebook: Path) -> None:
    found = execution.executed("one", {"number": 3})
    (figure,) = (o.data for c in found.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {}))
    assert figure["application/json"]["axes"] == [
        {"title": "", "x": "x", "y": "", "lines": [{"label": "line", "x": [0, 1], "y": [3.0, 2.0]}]}
    ]
    (table,) = (o.data for c in found.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {}))
    assert table["application/json"] == {"columns": ["a"], "index": [0, 1], "data": [[1.5], [None]]}
    notes = found.metadata.notes
    assert notes.parameters == {"number": 3}
    assert {"cell-0", "cell-1", "cell-2", "cell-3"} <= notes.seconds.keys()
    assert {"book/results", "book/results/one.json", "sharp_maml_core/params.py"} <= notes.depends.keys()
    assert not any(name.startswith("sharp_maml_core/theory") for name in notes.depends)


def test_nothing_changed_and_it_is_kept(notebook: Path) -> None:
    assert is_kept()


def test_other_parameters_are_another_run(notebook: Path) -> None:
    assert not is_kept({"number": 4})


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("sharp_maml_core/params.py", False),
        ("sharp_maml_core/theory/lemma1.py", True),
        ("book/results/one.json", False),
        ("book/results/two.json", False),
        ("book/elsewhere.json", True),
    ],
)
def test_a_file_counts_if_it_was_read(notebook: Path, name: str, kept: bool) -> None:
    path = notebook / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"5") + b"\n")
    assert is_kept() is kept
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
    assert is_kept()


def test_prose_may_change_and_code_may_not(notebook: Path) -> None:
    path = notebook / "notebooks" / "one.ipynb"
    before = path.read_text()
    path.write_text(before.replace("Prose.", "Other prose."))
    assert is_kept()
    assert execution.executed("one", {"number": 3}).cells[-1].source == "Other prose."
    path.write_text(before.replace("label='line'", "label='curve'"))
    assert not is_kept()
    path.write_text(before)


def test_a_notebook_that_fails_is_told_with_its_error(notebook: Path) -> None:
    path = notebook / "notebooks" / "two.ipynb"
    right = (notebook / "notebooks" / "one.ipynb").read_text()
    path.write_text(right.replace("number: int = 1", "number: int = 1 / 0"))
    with pytest.raises(execution.FailedNotebook, match="ZeroDivisionError"):
        execution.executed("two", {"number": 3})
    assert not (execution.KEPT / "two.ipynb").exists()
