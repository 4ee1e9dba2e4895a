"""What all figures share: captions, style, and pictures."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawn import saved, texts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from thyroid_utils.common import paths
from thyroid_utils.data.images import write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.plots import style
from thyroid_utils.plots.pictures import MAP_COLOURS, Panel, card_grid, case_panel, panel_grid

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
    assert style.captions("preprocessing")("augmentation", name="x").startswith("Augmentation 'x': one image")


def disc() -> np.ndarray:
    y, x = np.ogrid[:48, :60]
    return (y - 24) ** 2 + (x - 30) ** 2 < 100


def test_a_case_is_titled_by_id_and_class_with_its_outline_and_never_by_its_patient(tmp_path):
    files = {"image": str(write_png(tmp_path / "a.png", np.full((48, 60), 90, np.uint8)))}
    files["mask"] = str(write_png(tmp_path / "b.png", disc()))
    known = {"case": "d/4", **files, "label": 1, "patient": "p7", "dataset": "d", "tirads": "TR4a"}
    cases = make_cases([known, {"case": "d/5", "image": files["image"], "patient": "p8", "dataset": "d"}])
    panel = case_panel(cases, "d/4")
    assert panel.title == "d/4\nmalignant, TI-RADS 4a" and (
        case_panel(cases, "d/5").title,
        case_panel(cases, "d/5", "x").title,
    ) == ("d/5", "x")
    figure = panel_grid([panel, Panel(np.zeros((10, 10)), "flat", boxes={"red": (1, 5, 2, 6)})], 2)
    assert len(figure.axes[0].collections) == 1, "the outline"
    (box,) = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 0.5, 4, 4)
    assert panel_grid([]) is None and card_grid([]) is None


@pytest.mark.parametrize("blank", [np.zeros((48, 60)), np.full((48, 60), np.nan)])
def test_a_blank_map_is_said_and_not_coloured(blank):
    figure = panel_grid([Panel(np.zeros((48, 60)), map=blank, outlines={"red": disc()})])
    assert "blank map" in texts(figure) and all(image.get_cmap().name == "gray" for image in figure.axes[0].images)


def test_maps_are_blue_to_red_and_may_be_coarser_than_their_image():
    low, high = MAP_COLOURS(0.0), MAP_COLOURS(1.0)
    assert low[2] > 2 * max(low[:2]) and high[0] > 3 * max(high[1:3])
    cards = [[Panel(np.zeros(shape), "a"), Panel(np.zeros(shape), map=np.eye(7))] for shape in ((60, 40), (30, 90), (200, 40))]
    assert card_grid(cards).axes[1].images[1].get_extent() == [-0.5, 39.5, 59.5, -0.5]


def test_texts_stay_on_their_card():
    title, picture = "a-very-long-folder-name/" * 4 + "image\nbenign", np.zeros((48, 60))
    figure = card_grid([[Panel(picture, title, below=["word " * 40, "few"]), Panel(picture, map=picture + 1)]] * 6)
    FigureCanvasAgg(figure).draw()
    heads = [axes._left_title.get_window_extent() for axes in figure.axes[:12]]
    feet = [axes.xaxis.label.get_window_extent() for axes in figure.axes[:12]]
    assert max(box.y1 for box in heads) <= figure.bbox.y1 and max(box.x1 for box in [*heads, *feet]) <= figure.bbox.x1
    assert all(head.y1 < foot.y0 for head, foot in zip(heads[4:], feet, strict=False)), "no row reaches into the next"


def test_the_same_data_gives_the_same_file_in_the_one_style_and_no_figure_stays_open():
    with plt.rc_context({"axes.facecolor": "red", "font.size": 30}):
        figure = panel_grid([Panel(disc() * 1.0, "a")])
        assert plt.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)
    assert saved(figure) == saved(panel_grid([Panel(disc() * 1.0, "a")])) and plt.get_fignums() == []
