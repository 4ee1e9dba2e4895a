"""What all figures share: captions."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from thyroid_utils.common import paths
from thyroid_utils.plots import style

NOTEBOOKS = sorted((paths.project_root() / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_caption_of_a_notebook_is_there_and_used(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    texts = tomllib.loads(Path(style.__file__).with_name("captions.toml").read_text(encoding="utf-8"))[notebook.stem[3:]]
    said = re.findall(r"(?:says|captions\(\"\w+\"\))\(\s*\"(\w+)\"", code)
    assert set(said) == set(texts)
    assert all(text.endswith((".", "}", "?")) for text in texts.values())


def test_a_caption_is_filled_in_by_what_is_known_and_what_is_added():
    says = style.captions("grad_cam", method="HiResCAM")
    assert says("segmenter", model="unet") == "HiResCAM of unet for the pixels it calls nodule, beside the same baselines."
