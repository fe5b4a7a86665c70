"""The notebook runs from its first cell to its last, scaled down, and keeps no path of the machine it was run on."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"
nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")


def test_it_runs(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")
    pytest.importorskip("ipykernel", reason="needs the extra dev")
    notebook = nbformat.read(NOTEBOOK, 4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "EPOCHS = 12" in settings.source
    small = {'"synthetic"': '"synthetic:300"', "EPOCHS = 12": "EPOCHS = 2", '"runs/notebook"': repr(str(tmp_path))}
    for text, other in small.items():
        settings.source = settings.source.replace(text, other)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert (tmp_path / "report.html").is_file()
    table = next(
        o for cell in notebook.cells[::-1] for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})
    )
    for name in ("standard", "dpaat-balanced", "clean", "PGD-20 2/255"):
        assert name in table.data["text/html"]
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2


def test_its_outputs_are_those_of_a_run_and_name_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    code = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [path for path in ("/home/", "/Users/", "/root/", "/tmp/", "/work/") if path in text]
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
