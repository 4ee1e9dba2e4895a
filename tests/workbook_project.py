"""A small project of notebooks for the tests of the runner."""

import json
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """DATASET = "phantom"  # one of: phantom, ddti
DATA_ROOT = ""  # folder of the data set
SIZE = 64  # pixels, 32 to 1024
SHARE = 0.5  # share of patients, 0 to 1
SEEDS = [0]  # whole numbers
LIMIT = None  # images, 1 to 100; None takes all"""

FIGURES = """from types import SimpleNamespace
import pandas as pd
from matplotlib.figure import Figure
from thyroid_utils.workbook.record import answer_here, record, record_answer, record_figure, record_table
answer_here()
figure = Figure(figsize=(8, 4))
figure.subplots().plot([1, 3, 2, 5, 4], marker="o")
record_figure(figure, "curve", "A curve <that> rises & falls.")
record_table(pd.DataFrame({"class": ["benign", "<b>malignant</b>"], "images": [120, 80], "dice": [0.81234, 0.7]}), "counts",
             "Images by class.", index=False)
record_answer("The *first* answer.")
record_answer("Apart by 0.11 **or more**, on 4 patients.")
record("images", 200, "Images")
record("dice", SimpleNamespace(value=0.81, low=0.78, high=0.84), "Dice")
record("area", 12345.678, "Area", "mm²")
record("split_hash", "ab" * 32, "Split")"""

PROSE = r"""## Weigh the loss

Inline $\alpha \in [0, 1]$ and on its own line

$$\mathrm{Dice} = \frac{2\,|A \cap B|}{|A| + |B|}$$

| name | value |
|---|---|
| a | 1 |

### A closer look

Some more words, to be read by people who look at an example of `code`."""


def notebook(title: str, *cells: str, parameters: str | None = PARAMETERS, prose: str = "") -> nbformat.NotebookNode:
    """A notebook with a title, a question, a parameters cell and these code cells."""
    made = [new_markdown_cell(f"# {title}\n\nWhich **answer** does this notebook give?")]
    if parameters is not None:
        made.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [new_markdown_cell(prose)] if prose else []
    made += [new_code_cell(cell) for cell in cells]
    for number, cell in enumerate(made):
        cell.id = f"cell-{number}"
    return new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}})


def write_project(
    root: Path, parameter_file: str = "title: A test\ncommon:\n  SIZE: 128\n", **notebooks: nbformat.NotebookNode
) -> Path:
    """Lay out `root/notebooks/` and `root/params/test.yaml`; returns the parameter file."""
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    (root / "params").mkdir(exist_ok=True)
    for name, node in notebooks.items():
        nbformat.write(node, root / "notebooks" / f"{name.removeprefix('n')}.ipynb")
    params = root / "params" / "test.yaml"
    params.write_text(parameter_file, encoding="utf-8")
    return params


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
