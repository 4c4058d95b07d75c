"""Notebooks are stored as they ran: with all outputs, without errors and without paths of the machine."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FOLDERS = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|var)/")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_its_outputs_and_names_no_folder(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    texts = [json.dumps({**output, "data": {**output.get("data", {}), "image/png": None}}) for output in outputs]
    assert not [found for text in texts for found in FOLDERS.findall(text)]
