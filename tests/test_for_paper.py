"""Figures for a paper: the size asked for, the language, every format, and nothing that overlaps or stays changed."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from drawn import texts
from PIL import Image

from thyroid_utils.plots.charts import cost_and_score, score_dots
from thyroid_utils.plots.for_paper import _told_by, save_for_paper
from thyroid_utils.plots.pictures import Panel, panel_grid
from thyroid_utils.scores.estimates import Estimate

VALUE = Estimate(0.61, 0.4, 0.8, 40, 20)
MODELS = ["resnet18", "mobilenet_v2", "resnet18_transformer", "vgg16"]


def dots():
    names = {name: name for name in ("auc", "accuracy", "sensitivity", "specificity")}
    return score_dots(pd.DataFrame(dict.fromkeys(names, [VALUE] * 4), index=MODELS), names)


def costs():
    table = pd.DataFrame({"parameters": [11.2, 2.2, 14, 138]}, index=MODELS)
    return cost_and_score(table, pd.Series(VALUE, MODELS), "AUC", {"parameters": "parameters, millions"})


def pictures():
    frame = np.arange(48.0).reshape(6, 8)
    return panel_grid([Panel(frame, f"case-{number:04d}\nmalignant, called benign", map=frame / 48) for number in range(8)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", [dots, costs, pictures])
@pytest.mark.parametrize("width", [60, 85, 175])
def test_it_is_as_wide_as_asked_and_nothing_overlaps_or_is_cut(draw, width, tmp_path):
    made = save_for_paper(draw(), tmp_path / "a.png", width=width)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == pytest.approx(width / 25.4 * 600, abs=1)
    made.draw_without_rendering()
    for axes in made.axes:
        for text in (axes._left_title, axes.xaxis.label):
            box = text.get_window_extent()
            assert not text.get_text() or (box.x0 > -1 and box.x1 < made.bbox.width + 1 and box.y0 > -1), text.get_text()
    titles = [axes._left_title.get_window_extent() for axes in made.axes if axes._left_title.get_text()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))
    assert all(legend.get_window_extent().x1 <= made.bbox.width + 1 for legend in made.legends)


def test_language_decimal_formats_and_font_are_the_papers_and_the_session_stays_as_it_was(tmp_path):
    told = _told_by({}, ",")("AUC 0.81 [0.7, 0.9], p < 0.05. v1.2, 0.5.1, 10.1016/j.x")
    assert told == "AUC 0,81 [0,7, 0,9], p < 0,05. v1.2, 0.5.1, 10.1016/j.x"
    figure, before = dots(), dict(mpl.rcParams)
    size, said = figure.get_size_inches().tolist(), texts(figure)
    files = [tmp_path / f"a.{kind}" for kind in ("pdf", "svg", "png")]
    words = {"accuracy": "Genauigkeit", "resnet18": "ResNet-18"}
    save_for_paper(figure, *files, height=100, size=7, font="DejaVu Serif", decimal=",", words=words)
    starts = [file.read_bytes()[:5] for file in files]
    assert starts[0] == b"%PDF-" and starts[1] == b"<?xml" and starts[2][1:4] == b"PNG"
    drawn = files[1].read_text()
    assert all(word in drawn for word in ("Genauigkeit", "ResNet-18<", "resnet18_transformer", "0,60", "DejaVu Serif"))
    assert "0.60<" not in drawn
    with Image.open(files[2]) as image:
        assert image.height == pytest.approx(100 / 25.4 * 600, abs=1)
    assert dict(mpl.rcParams) == before and figure.get_size_inches().tolist() == size and texts(figure) == said
    with pytest.raises(ValueError, match="'DejaVu Serf' is not installed; did you mean DejaVu Serif"):
        save_for_paper(figure, font="DejaVu Serf")
