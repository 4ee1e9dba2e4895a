"""003's tables as configs and runs: which networks, what their runs say on tiny ones, and the paper's sums."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from test_segmenter_comparison import discs
from torch import nn
from training_project import segmentation_config

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError
from thyroid_utils.models import Architecture
from thyroid_utils.models.networks import build_segmenter, parameter_count
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.plots import module_ablation as plots
from thyroid_utils.plots.charts import cost_and_score
from thyroid_utils.scores.estimates import Comparison, Estimate, patient_bootstrap
from thyroid_utils.scores.power import paired_power, seed_components
from thyroid_utils.studies.module_ablation import (
    AblationStudy,
    gain_power,
    pareto_front,
    power_table,
    reading_table,
)
from thyroid_utils.studies.module_ablation.tables import (
    SWITCHES,
    TABLES,
    AblationRow,
    AblationTable,
    count_parameters,
    count_table,
    network_stages,
    stage_table,
    study_configs,
    sums_table,
)
from thyroid_utils.studies.papers import reported_scores
from thyroid_utils.training.fit import fit_or_load

COMMON = {"loss": {"name": "tversky", "options": {"alpha": 0.3, "beta": 0.7}}}
TINY = AblationTable(
    "tiny",
    "small",
    (
        AblationRow("small", "tiny_switched", {"attention": False}),
        AblationRow("attended", "tiny_switched", reported_iou=0.29, reported_share=0.9, remark="as told"),
        AblationRow("pooled", "tiny_switched", {"attention": False, "ppm": True}),
    ),
)
# Shares two networks with it, one of them under another name.
OTHER = AblationTable(
    "removed",
    "complete",
    (replace(TINY.rows[2], name="complete", label="pooled"), replace(TINY.rows[0], name="bare", label="small")),
)


def tiny_switched(in_channels: int, classes: int, attention: bool = True, ppm: bool = False, width: int = 4) -> nn.Module:
    """Stands in for the switches: wider where one is on."""
    width *= 1 + attention + 2 * ppm
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, classes, 1),
    )


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The study of both tables by number of seeds; the runs in any order, one given twice."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(tmp_path_factory.mktemp(name.lower())))
        patch.setitem(SEGMENTERS, "tiny_switched", Architecture(tiny_switched, size=32))
        cases = discs(tmp_path_factory.mktemp("discs"))
        patch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as tables:
            tables.setitem(TABLES, "modules", TINY)
            tables.setitem(TABLES, "removed", OTHER)
            config = segmentation_config(training__epochs=2, optimiser__learning_rate=0.05, size=32)
            common = config.model_dump(exclude={"task", "model", "seed"})
            configs = study_configs(["modules", "removed"], [0, 1], common, options={"tiny_switched": {"width": 3}})
            runs = [fit_or_load(config) for config in configs]
            mixed = [*runs[::2], *runs[1::2], runs[0]]
            found = {
                seeds: AblationStudy.of(["modules", "removed"], [run for run in mixed if run.config.seed < seeds], 0.7)
                for seeds in (1, 2)
            }
            assert AblationStudy.of(["removed"], runs, 0.7).whole.models == ["pooled", "small"]
            with pytest.raises(DataError, match="no run of attended, pooled"):
                AblationStudy.of(["modules"], runs[:2], 0.7)
        yield found
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def study(studies):
    return studies[2]


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_networks_that_can_be_built(name):
    table = TABLES[name]
    assert table.reference in [row.name for row in table.rows] and len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert set(row.switches) <= set(SWITCHES)
        # A switch at its default would make two configs of one network.
        assert not row.switches or count_parameters(row.model, **row.switches) != count_parameters(row.model), row.name
    assert np.isnan(table.row(table.reference).reported_iou)


def test_configs_differ_in_the_network_and_seed_alone_and_hold_each_network_once():
    configs = study_configs(["aspp"], [3, 4], COMMON, weights="imagenet")
    plain = {"attention": False, "multi_skip": False, "ppm": False}
    assert [(config.model.options, config.seed) for config in configs] == [
        ({**plain, "separable_aspp": False}, 3), ({**plain, "separable_aspp": False}, 4), (plain, 3), (plain, 4),
    ]  # fmt: skip
    assert len({config.model_copy(update={"model": configs[0].model, "seed": 0}).to_json() for config in configs}) == 1
    # 18 rows; the separable ASPP is the modules' beginning, and the whole network stands in four tables
    every = study_configs(list(TABLES), [0, 1], COMMON)
    assert len(every) == len({config.to_json() for config in every}) == 28
    rows = [row for table in TABLES.values() for row in table.rows]
    names = {(str((row.model, row.switches)), row.network) for row in rows}
    assert len(names) == len({key for key, _ in names}) == len({name for _, name in names}) == 14


def test_networks_without_an_encoder_start_from_scratch():
    configs = study_configs(["method"], [0], COMMON, weights="imagenet", options={"unet": {"widths": [4, 8]}})
    assert {config.model.name: config.model.weights for config in configs} == {
        "mobile_deeplab": "imagenet", "deeplabv3plus_xception": "imagenet", "unet": "none", "fcn8s": "imagenet",
    }  # fmt: skip
    assert [config.model.options for config in configs[1:3]] == [{"separable_aspp": False}, {"widths": [4, 8]}]


@pytest.mark.parametrize(
    "table, options, told",
    [
        ("asp", {}, "table must be one of aspp, modules, backbone, method, removed; found 'asp'"),
        ("modules", {"mobile_deeplab": {"ppm": True, "width": 8}}, "of mobile_deeplab must not name ppm, which the rows"),
        ("aspp", {"mobile_deplab": {"width": 8}}, "are given for mobile_deplab, which is in no table; known: deeplab"),
    ],
)
def test_impossible_tables_are_refused(table, options, told):
    with pytest.raises(ConfigError, match=told):
        study_configs([table], [0], COMMON, options=options)


def test_costs_and_claims_of_each_row(study):
    assert study.whole.models == ["small", "attended", "pooled"] and study.seeds == 2
    table = study.results["modules"]
    counts = {"small": 3 * 9 + 6 + 4, "attended": 6 * 9 + 12 + 7, "pooled": 9 * 9 + 18 + 10}  # gray images
    assert list(table.index) == list(counts)
    np.testing.assert_allclose(table["parameters"] * 1e6, list(counts.values()))
    np.testing.assert_allclose(table["share"], np.array(list(counts.values())) / counts["small"])
    seconds = [np.mean([run.environment["seconds"] for run in runs]) for runs in study.whole.runs.values()]
    np.testing.assert_allclose(table["training_seconds"], seconds)
    assert (table["latency_ms"] > 0).all()
    assert list(table.loc["attended", ["reported_points", "reported_share", "remark"]]) == [0.29, 0.9, "as told"]
    assert np.isnan(table.at["pooled", "reported_points"])


def test_differences_to_the_reference_by_another_road(study):
    """From the scores image by image, and patients' signs flipped one by one (few enough for all flips); Holm's two p-values by
    hand: the smaller doubled, the larger no smaller than that."""
    table, comparison = study.results["modules"], study.whole
    scores = {
        row: np.nanmean([part[part["resolution"] == "own"]["iou"] for part in comparison.tables[row]], axis=0)
        for row in ("small", "attended", "pooled")
    }
    patients = comparison.truth["patient"].to_numpy()
    p_values = []
    for row in ("attended", "pooled"):
        found = table.at[row, "difference"]
        known = ~np.isnan(scores[row]) & ~np.isnan(scores["small"])
        gap = (scores[row] - scores["small"])[known]
        assert found.difference == pytest.approx(gap.mean()) == found.first - found.second
        interval = patient_bootstrap(gap, patients[known], resamples=2000)
        np.testing.assert_allclose((found.low, found.high, found.images), (interval.low, interval.high, known.sum()))
        sums = pd.Series(gap).groupby(patients[known]).sum().to_numpy()
        assert 2 <= len(sums) <= 12
        flipped = [abs(np.dot(signs, sums)) >= abs(sums.sum()) * (1 - 1e-9) for signs in product((-1, 1), repeat=len(sums))]
        p_values.append(float(np.mean(flipped)))
        assert found.p_value == p_values[-1]
    smaller, larger = sorted(p_values)
    by_hand = {smaller: min(1, 2 * smaller), larger: min(1, max(2 * smaller, larger))}
    np.testing.assert_allclose(table["p_holm"], [np.nan, *(by_hand[p] for p in p_values)])
    assert list(table["differs"]) == [bool(p < 0.05) for p in table["p_holm"]]
    assert table.at["small", "difference"] is None and np.isnan(table.at["small", "wide_low"])
    of_runs = comparison.by_run(["iou"])
    expected = [of_runs.loc[of_runs["model"] == row, "iou"].std(ddof=1) for row in table.index]
    np.testing.assert_allclose(table["seed_sd"], expected)


def test_a_study_scores_and_times_each_network_once(study):
    modules, removed = study.results["modules"], study.results["removed"]
    assert list(removed.index) == ["complete", "bare"] and list(removed["network"]) == ["pooled", "small"]
    assert removed.at["bare", "latency_ms"] == modules.at["small", "latency_ms"]
    assert removed.at["bare", "difference"].difference == pytest.approx(-modules.at["pooled", "difference"].difference)
    assert list(study.titled) == ["tiny", "removed"]
    assert list(study.networks.index) == ["small", "attended", "pooled"] and study.front("parameters")[0] == "small"


def test_all_together_against_the_sum_of_single_gains(study):
    """pooled − small − (attended − small), image by image."""
    scores = study.whole.by_image(["iou"]).pivot(index="case", columns="model", values="iou").loc[study.whole.truth.index]
    expected = patient_bootstrap(100 * (scores["pooled"] - scores["attended"]), study.patients, resamples=2000)
    found = study.together()
    np.testing.assert_allclose([found.value, found.low, found.high], [expected.value, expected.low, expected.high])
    assert replace(study, tables={"aspp": OTHER}).together() is None


def test_the_spread_over_seeds_is_pooled_over_rows_or_assumed(study, studies):
    own = study.whole.tables["pooled"][1], study.whole.tables["small"][1]
    expected = np.subtract(*(part[part["resolution"] == "own"]["iou"].to_numpy() for part in own))
    gains = [gain for _, _, gain in study.gains()]
    np.testing.assert_array_equal(gains[1].iloc[1], expected)
    squares = [seed_components(gain, study.patients)[0] for gain in gains]
    assert len(squares) == 3 and study.measured_sd == pytest.approx(100 * np.sqrt(max(0.0, np.mean(squares))))
    assert study.seed_sd == study.measured_sd and "measured, pooled over all rows" in study.basis
    assert studies[1].seed_sd == 0.7 and "0.70 points, assumed" in studies[1].basis


def test_power_of_a_study_and_patients_for_each_gain(study):
    powers = gain_power(study, gain=2.0, patients_grid=(5, 50), seeds_grid=(1, 4), simulations=50)
    assert list(powers.table.index) == [("modules", "attended"), ("modules", "pooled"), ("removed", "bare")]
    assert list(powers.table["gain"]) == [0.29, 2.0, 2.0] and list(powers.table["whose"]) == ["paper", "asked", "asked"]
    assert list(powers.curves) == ["attended: 0.29 points"] and len(powers.curves["attended: 0.29 points"]) == 4
    gains = next(gains for _, row, gains in study.gains() if row.name == "pooled")
    spread = (100 * gains.mean()).groupby(study.patients.to_numpy()).mean().std(ddof=1)
    count, row = study.patients.nunique(), powers.table.loc[("modules", "pooled")]
    assert row["patient_sd"] == pytest.approx(spread)
    assert row["power"] == pytest.approx(paired_power(2.0, spread, count, 2, study.seed_sd))
    assert paired_power(row["smallest"], spread, count, 2, study.seed_sd) == pytest.approx(0.8)
    shown = power_table(powers)
    assert list(shown.columns[2:4]) == ["patients, 1 seed", "patients, 4 seeds"]
    assert shown.iloc[:, 2:4].map(lambda text: text[0] in "≤>" or text.isdigit()).all(axis=None)


def test_tables_as_they_are_read(study):
    shown = reading_table(study, "modules")
    assert list(shown.loc["small", ["difference, points", "with seeds"]]) == ["reference", ""]
    found = study.results["modules"].loc["attended"]
    gap = found["difference"]
    text = f"{100 * gap.difference:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    assert shown.at["attended", "difference, points"] == text
    assert list(shown["paper, points"]) == ["", "+0.29", ""] and shown.at["attended", "remark"] == "as told"
    assert (found["wide_low"] + found["wide_high"]) / 2 == pytest.approx(gap.difference)
    assert not {"remark", "paper, ×", "paper, points"} & set(reading_table(study, "removed")), "columns that say nothing"
    assert reading_table(study, "aspp").empty
    as_backbone = replace(study, tables={"aspp": TINY, "backbone": TINY})
    assert reading_table(as_backbone, "aspp").at["small", "time, ×"] == 1
    assert "latency, ms" in reading_table(as_backbone, "backbone")


def test_parts_of_a_network_as_they_are_read():
    network = build_segmenter("mobile_deeplab", in_channels=1)
    shown = stage_table(network_stages(network, 64))
    assert shown["parameters"].sum() == parameter_count(network) and shown["share, %"].sum() == pytest.approx(100, abs=1)
    assert shown.at["horizontal", "reads"] == "F, vertical 1/4 = V" and shown.at["F", "output"] == "256×4×4"


def test_pareto_front_by_hand():
    cost = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 2.0, "e": 4.0, "f": np.nan, "g": 1.0})
    score = pd.Series({"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.6, "e": 0.7, "f": 0.9, "g": 0.5})
    assert pareto_front(cost, score) == ["a", "g", "b"] and pareto_front(cost[["f"]], score[["f"]]) == []


def test_parameter_counts_are_near_the_papers():
    table = count_table()
    assert len(table) == sum(len(entry.rows) for entry in TABLES.values())
    told = table["paper, ×"].notna()
    # The widths are ours; the furthest is ResNet50's, 2.8 % from 125 / 12.4.
    assert (table["× reference"] / table["paper, ×"])[told].between(0.96, 1.04).all() and told.sum() == 5
    ours = table.loc[("Backbone (Table 6)", "MobileNetV2")]
    assert 3.0 <= ours["parameters, M"] <= 3.3 and ours["float32, MiB"] == pytest.approx(12.4, rel=0.03)


def test_the_papers_gains_are_those_that_its_text_quotes():
    """Of the methods the ledger of reported scores knows the same numbers."""
    scores = reported_scores("segmentation").query("paper == '003' and score == 'iou'").set_index(["model", "loss"])["value"]
    best = scores["mobile_deeplab", "tversky"]
    for row in TABLES["method"].rows[1:]:
        assert 100 * (scores[row.model, ""] - best) == pytest.approx(row.reported_iou)


def test_sums_that_do_and_do_not_add_up():
    tables = {place: sums_table(place) for place in ("loss", "aspp", "modules", "backbone", "method", "text")}
    assert all(list(table.columns) == ["paper", "computed", "how", "agrees"] for table in tables.values())
    table = pd.concat(tables)
    assert len(table) == 15
    assert list(table.index[table["agrees"] == "no"]) == [
        ("loss", "accuracy with Tversky, %"),
        ("loss", "nodule pixels in the images of both losses, %"),
        ("loss", "specificity with Tversky, %"),
        ("aspp", "separable over ordinary convolution, weights"),
        ("modules", "gains of the three modules, points of IoU"),
        ("text", "energy consumption"),
    ]
    computed = table["computed"].droplevel(0)
    assert computed["gains of the three modules, points of IoU"] == "0.80"
    assert computed["separable over ordinary convolution, weights"] == "0.115"
    assert computed["accuracy with Tversky, %"] == "98.37 to 98.59" and computed["energy consumption"] == "24 mJ an image"


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_diagram_has_a_box_a_part_and_an_arrow_a_map_read():
    stages = network_stages(build_segmenter("mobile_deeplab"), 64)
    (axes,) = plots.network_diagram(stages).axes
    shown = texts(axes)
    assert {"image", *stages["stage"]} - {"mobilenet_v2"} <= set(shown) and "mobilenet_v2, 1.81 M" in shown
    boxes = [patch.get_bbox() for patch in axes.patches]
    assert len(boxes) == len(stages) + 1
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0, (one, other)
    arrows = [text.arrow_patch for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == sum(len(inputs) for inputs in stages["inputs"]) == 23
    assert {"1/2", "1/4", "1/8", "1/16", "image size"} <= set(shown)
    assert shown.count("320×4×4") == 3 and "256×4×4\n0.75 M" in shown


def made(parameters: float, latency: float, value: float, difference: Comparison | None = None, points: float = np.nan) -> dict:
    p = np.nan if difference is None else difference.p_value
    return {"parameters": parameters, "latency_ms": latency, "iou": Estimate(value, value - 0.02, value + 0.02, 60, 30),
            "difference": difference, "p_holm": p, "differs": p < 0.05, "reported_points": points,
            "wide_low": -0.1, "wide_high": 0.1}  # fmt: skip


@pytest.fixture
def table() -> pd.DataFrame:
    gain = Comparison(0.62, 0.60, 0.02, -0.01, 0.05, 0.2, 60, 30)
    loss = Comparison(0.55, 0.60, -0.05, -0.07, -0.03, 0.01, 60, 30)
    untested = Comparison(0.60, 0.60, 0.0, np.nan, np.nan, np.nan, 1, 1, note="1 patient")
    rows = {"none": made(3.85, 50, 0.60), "attention": made(3.86, 52, 0.62, gain, 0.29),
            "U-Net": made(31.0, 160, 0.55, loss, -0.65), "FCN-8s": made(134.0, 300, 0.60, untested)}  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def test_gains_stand_beside_the_papers(table):
    (axes,) = plots.ablation_gains({"Modules": table, "alone": table.iloc[:1]}).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Modules", "attention", "U-Net", "FCN-8s"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(line.get_data()[0]) for line in dots] == [(pytest.approx(2.0),), (pytest.approx(-5.0),), (0.0,)]
    papers = [float(line.get_data()[0][0]) for line in axes.lines if line.get_marker() == "D"]
    assert papers[:2] == [0.29, -0.65] and np.isnan(papers[2])
    assert dots[1].get_color() == plots.CLASS_COLOURS["malignant"] != dots[0].get_color()
    assert texts(axes) == ["p = 0.2", "p = 0.01", "no test"]
    thin = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 0.8]
    assert thin == [pytest.approx((-10, 10))] * 3
    assert plots.ablation_gains({"alone": table.iloc[:1]}) is None


def test_costs_with_a_front_mark_it_in_both_panels(table):
    fronts = {column: ["none", "attention"] for column in plots.COSTS}
    left, right = cost_and_score(table, table["iou"], "IoU", plots.COSTS, fronts).axes
    for axes, column in ((left, "parameters"), (right, "latency_ms")):
        front = next(line for line in axes.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(front.get_xdata(), table.loc[["none", "attention"], column])
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots) == 4 and axes.get_xscale() == "log" and axes.get_ylabel() in ("IoU", "")
        assert sum(line.get_markerfacecolor() == "white" for line in dots) == 2


def test_power_curves_have_a_line_a_number_of_seeds_and_the_level():
    grid = [(patients, seeds) for seeds in (1, 5) for patients in (10, 100, 1000)]
    table = pd.DataFrame(grid, columns=["patients", "seeds"]).assign(power=[0.1, 0.2, 0.3, 0.1, 0.5, 0.9])
    table = table.assign(low=table["power"] - 0.02, high=table["power"] + 0.02)
    figure = plots.power_curves({"0.29 points": table, "0.76 points": table, "a": table, "b": table})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["0.29 points", "0.76 points", "a", "b"]
    curves = [line for line in shown[0].lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in curves] == [[10, 20, 30], [10, 50, 90]]
    assert list(shown[0].lines[-1].get_ydata()) == [80, 80]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1 seed", "5 seeds", "80 %"]
    assert len(plots.power_curves({"": table.query("seeds == 1")}).axes) == 1 and plots.power_curves({}) is None
