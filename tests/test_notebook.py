import base64

import nbclient
import nbformat

from tests.conftest import ROOT, run_script
from tests.test_ensemble import write_inputs

NOTEBOOK = ROOT / "ensemble.ipynb"


def test_the_notebook_draws_the_curve_and_writes_the_scripts_submission(tmp_path):
    write_inputs(tmp_path)
    assert run_script(".", "ensemble.py", "--data_dir", tmp_path, "--resources_dir", tmp_path).returncode == 0
    written = [tmp_path / "submission.csv", tmp_path / "blend.json"]
    expected = [path.read_bytes() for path in written]
    for path in written:
        path.unlink()

    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"DATA_DIR = RESOURCES_DIR = {str(tmp_path)!r}"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert [base64.b64decode(picture)[:8] for picture in pictures] == [b"\x89PNG\r\n\x1a\n"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "best weight of model1 on valid: 0.353535 (index 35)" in printed
    assert "exact optimum: 1.000000 from 0.347826 to 0.900000" in printed
    assert [path.read_bytes() for path in written] == expected


def test_the_notebook_is_kept_without_outputs_and_starts_on_the_sample():
    cells = nbformat.read(NOTEBOOK, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert code[0].source == 'DATA_DIR = "data/sample"\nRESOURCES_DIR = "external_resources/sample"'
