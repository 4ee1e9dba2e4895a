"""What the figures of the ablation show, read back from their axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thyroid_utils.models import build_segmenter
from thyroid_utils.plots import ablation
from thyroid_utils.scores.estimates import Comparison, Estimate
from thyroid_utils.studies.module_ablation.network_stages import network_stages


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def row(parameters: float, latency: float, value: float, difference: Comparison | None = None, **more) -> dict:
    return {
        "parameters": parameters,
        "latency_ms": latency,
        "iou": Estimate(value, value - 0.02, value + 0.02, 60, 30),
        "difference": difference,
        "p_holm": np.nan if difference is None else difference.p_value,
        "differs": difference is not None and difference.p_value < 0.05,
        "reported_points": np.nan,
        **more,
    }


@pytest.fixture
def table() -> pd.DataFrame:
    gain = Comparison(0.62, 0.60, 0.02, -0.01, 0.05, 0.2, 60, 30)
    loss = Comparison(0.55, 0.60, -0.05, -0.07, -0.03, 0.01, 60, 30)
    untested = Comparison(0.60, 0.60, 0.0, np.nan, np.nan, np.nan, 1, 1, note="1 patient")
    rows = {
        "none": row(3.85, 50, 0.60),
        "attention": row(3.86, 52, 0.62, gain, reported_points=0.29),
        "U-Net": row(31.0, 160, 0.55, loss, reported_points=-0.65),
        "FCN-8s": row(134.0, 300, 0.60, untested),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def test_the_diagram_has_a_box_a_part_and_an_arrow_a_map_read():
    stages = network_stages(build_segmenter("mobile_deeplab"), 64)
    (axes,) = ablation.network_diagram(stages).axes
    shown = texts(axes)
    assert {"image", *stages["stage"]} - {"mobilenet_v2"} <= set(shown) and "mobilenet_v2, 1.81 M" in shown
    assert len(axes.patches) == len(stages) + 1
    arrows = sum(len(inputs) for inputs in stages["inputs"])
    assert sum(text.arrow_patch is not None for text in axes.texts if hasattr(text, "arrow_patch")) == arrows == 23
    assert {"1/2", "1/4", "1/8", "1/16", "image size"} <= set(shown)
    assert shown.count("320×4×4") == 3 and "256×4×4\n0.75 M" in shown


def test_boxes_of_the_diagram_do_not_overlap():
    for options in ({}, {"multi_skip": False}, {"attention": False, "ppm": False}, {"backbone": "resnet50"}):
        (axes,) = ablation.network_diagram(network_stages(build_segmenter("mobile_deeplab", **options), 32)).axes
        boxes = [patch.get_bbox() for patch in axes.patches]
        for number, one in enumerate(boxes):
            for other in boxes[number + 1 :]:
                apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
                assert apart, (options, one, other)


def test_arrows_of_the_diagram_go_to_the_right():
    stages = network_stages(build_segmenter("mobile_deeplab"), 32)
    layout = ablation._Layout(stages)
    for stage in stages.itertuples():
        assert all(layout.column[name] < layout.column[stage.stage] for name, *_ in stage.inputs)


def test_a_plain_networks_diagram_is_drawn_too():
    (axes,) = ablation.network_diagram(network_stages(build_segmenter("residual_unet", widths=(4, 8)), 16)).axes
    assert {"body", "head", "logits"} <= set(texts(axes))


def test_gains_stand_beside_the_papers(table):
    (axes,) = ablation.ablation_gains({"Modules": table, "alone": table.iloc[:1]}).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Modules", "attention", "U-Net", "FCN-8s"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(line.get_data()[0]) for line in dots] == [(pytest.approx(2.0),), (pytest.approx(-5.0),), (0.0,)]
    papers = [float(line.get_data()[0][0]) for line in axes.lines if line.get_marker() == "D"]
    assert papers[:2] == [0.29, -0.65] and np.isnan(papers[2])
    assert dots[1].get_color() == ablation.CLASS_COLOURS["malignant"] != dots[0].get_color()
    assert texts(axes) == ["p = 0.2", "p = 0.01", "no test"]


def test_gains_may_show_the_spread_of_training_as_well(table):
    wide = table.assign(wide_low=-0.1, wide_high=0.1)
    for shown, expected in ((table, []), (wide, [(-10, 10)] * 3)):
        figure = ablation.ablation_gains({"Modules": shown})
        thin = [tuple(line.get_xdata()) for line in figure.axes[0].lines if line.get_linewidth() == 0.8]
        assert thin == [pytest.approx(ends) for ends in expected]
        assert ("95 % over patients and seeds" in [text.get_text() for text in figure.legends[0].get_texts()]) == bool(expected)


def test_gains_without_a_compared_row_are_an_empty_figure(table):
    (axes,) = ablation.ablation_gains({"alone": table.iloc[:1]}).axes
    assert not list(axes.get_yticklabels())


def test_pareto_marks_the_front_in_both_panels(table):
    left, right = ablation.pareto(table).axes
    for axes, column in ((left, "parameters"), (right, "latency_ms")):
        front = next(line for line in axes.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(front.get_xdata(), table.loc[["none", "attention"], column])
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots) == 4 and axes.get_xscale() == "log"
        assert sum(line.get_markerfacecolor() == "white" for line in dots) == 2
    assert left.get_ylabel() == "IoU"


def test_pareto_leaves_out_what_has_no_number(table):
    table.at["U-Net", "latency_ms"] = np.nan
    table.at["FCN-8s", "iou"] = Estimate(np.nan, np.nan, np.nan, 0, 0)
    left, right = ablation.pareto(pd.concat([table, table.iloc[:1]])).axes
    assert [sum(line.get_marker() == "o" for line in axes.lines) for axes in (left, right)] == [3, 2]


def test_power_curves_have_a_line_a_number_of_seeds_and_the_level():
    grid = [(patients, seeds) for seeds in (1, 5) for patients in (10, 100, 1000)]
    table = pd.DataFrame(grid, columns=["patients", "seeds"]).assign(power=[0.1, 0.2, 0.3, 0.1, 0.5, 0.9])
    table = table.assign(low=table["power"] - 0.02, high=table["power"] + 0.02)
    figure = ablation.power_curves({"0.29 points": table, "0.76 points": table, "a": table, "b": table}, power=0.9)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["0.29 points", "0.76 points", "a", "b"]
    curves = [line for line in shown[0].lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in curves] == [[10, 20, 30], [10, 50, 90]]
    assert list(shown[0].lines[-1].get_ydata()) == [90, 90]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1 seed", "5 seeds", "90 %"]
    assert len(ablation.power_curves(table.query("seeds == 1")).axes) == 1
