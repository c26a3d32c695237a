"""The notebooks in docs/ run, and what they keep of it is small."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
BYTES_MAX = 250_000
TIMEOUT_S = 120
FOLDERS = ("home", "tmp", "root", "work", "Users")
"""At a machine's root, where whoever ran a notebook may have it."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # those of the client that talks to the kernel
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(book, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(cell.outputs or cell.source.startswith(("import", "from")) for cell in book.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_outputs_that_are_small_and_name_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < BYTES_MAX
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert not any(f"/{folder}/" in text for folder in FOLDERS)
    assert any(cell.cell_type == "markdown" for cell in nbformat.read(path, as_version=4).cells)


def test_there_are_notebooks_and_each_names_the_next() -> None:
    assert ["1_exploration", "2_features", "3_model", "4_changes"] == [path.stem for path in NOTEBOOKS]
    for path, following in pairwise(NOTEBOOKS):
        assert following.name in path.read_text(encoding="utf-8")
