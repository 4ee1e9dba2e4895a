"""Figures whose values a reader moves, and answers that a notebook checks."""

import pytest
from matplotlib import pyplot as plt

from thyroid_utils.plots.style import new_figure, styled
from thyroid_utils.workbook import lesson
from thyroid_utils.workbook.lesson import check_answer, play

DRAWN = []


@styled
def made(data, leak_share, alpha=0.25, layer="deep", flipped=False):
    if data is None:
        return None
    figure, axes = new_figure(1, 1, 1, 2)
    axes[0, 0].plot([0, data], [leak_share, alpha])
    DRAWN.append((leak_share, alpha, layer, flipped))
    return figure


CONTROLS = {"leak_share": (0.5, 1.0, 0.1), "alpha": (0, 1, 0.05), "layer": ["low", "deep"], "flipped": False}


@pytest.fixture(autouse=True)
def forget():
    DRAWN.clear()


def test_a_moved_control_draws_the_figure_anew_in_the_same_place(monkeypatch):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    monkeypatch.setattr(lesson, "_AT_ONCE", 1e9)
    box = play(made, 2, caption="A <line>.", **CONTROLS)
    *controls, picture, told = box.children
    assert [control.description for control in controls] == ["leak share", "α", "layer", "flipped"]
    assert told.value == "<em>A &lt;line&gt;.</em>" and picture.layout.width == "192px"
    assert set(DRAWN) == {(0.5, 0.25, "deep", False)}, "the control's first value, else the function's own"
    DRAWN.clear()
    assert picture.tooltip is None, "ipywidgets' page shows an error in place of an image that has one"
    before = picture.value
    controls[1].value = 0.75
    assert picture.value != before and controls[1].continuous_update
    monkeypatch.setattr(lesson, "_AT_ONCE", 0)
    controls[3].value = True
    assert DRAWN == [(0.5, 0.75, "deep", False), (0.5, 0.75, "deep", True)]
    assert not controls[0].continuous_update, "what is slow to draw waits until the slider is let go"
    assert not plt.get_fignums()
    assert play(made, None, caption="A line.", otherwise="Nothing was trained.", **CONTROLS) is None


def test_a_report_keeps_the_figure_of_the_first_values(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    monkeypatch.setenv("THYROID_NOTEBOOK", "05_loss_ablation")
    assert play(made, 2, caption="A line.", at={"alpha": 0.5}, **CONTROLS) is None
    assert DRAWN == [(0.5, 0.5, "deep", False)]
    assert (tmp_path / "figures" / "05_made.png").is_file()
    assert check_answer(None, 0.5, "Halve it.") is None


@pytest.mark.parametrize(
    ("answer", "right", "told"),
    [
        (None, 0.5, "Put your answer"),
        (0.55, 0.5, "**Right.**"),
        (0.56, 0.5, "**Not yet.** Halve it."),
        (float("nan"), 0.5, "**Not yet.** Halve it."),
        ((0, 5), 0.5, "**Not yet.** A number"),  # typed as 0,5
        (0.5, float("nan"), "This run has no such number"),
    ],
)
def test_an_answer_is_right_or_brings_a_hint(answer, right, told, monkeypatch):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    assert check_answer(answer, right, "Halve it.", within=0.05).data.startswith(told)
