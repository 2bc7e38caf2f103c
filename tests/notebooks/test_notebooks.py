"""The Colab notebooks: clean as they lie there, and executed from top to bottom on this machine."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "sample_colab_tpu": "HEIGHT, WIDTH, FRAMES, STEPS = 64, 128, 3, 2",
    "train_colab_tpu": "STEPS = 2",
}


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_one_to_sample_and_one_to_train():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_clean_and_never_installs_jax(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    sources = code_of(notebook)
    for source in sources:
        ast.parse(source)
    text = "\n".join(sources)
    assert '"-c", "keep.txt"' in text
    assert "install jax" not in text
    assert "jax.devices()" in text
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells) == 1


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    """As in Colab with its one device, but with smaller numbers after the cell of parameters."""
    notebook = nbformat.read(path, as_version=4)
    place = next(
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
    )
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[path.stem]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the eight devices of the other tests
    NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    if path.stem == "sample_colab_tpu":
        assert (tmp_path / "video.mp4").stat().st_size > 0
        assert {"image/png", "text/html"} <= kinds
    else:
        assert len(list((tmp_path / "runs").glob("*/checkpoints/2"))) == 3
        assert {"image/png", "image/gif"} <= kinds
