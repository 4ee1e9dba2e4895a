"""003's tables as configs and runs: which networks, what their runs say on tiny ones, and the paper's sums."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from segmentation_project import segmentation_config
from test_segmenter_comparison import discs
from torch import nn

from thyroid_utils.config import ConfigError
from thyroid_utils.data import DataError
from thyroid_utils.models import SEGMENTERS, build_segmenter, parameter_count
from thyroid_utils.models.segmenter_architectures import InputRule, SegmenterArchitecture
from thyroid_utils.module_ablation import (
    SWITCHES,
    TABLES,
    AblationRow,
    AblationTable,
    ablation_comparison,
    ablation_configs,
    ablation_table,
    gain_by_seed,
    parameter_counts,
    pareto_front,
    sums_that_do_not_add_up,
)
from thyroid_utils.module_ablation.sums import PixelTable
from thyroid_utils.papers import reported_scores
from thyroid_utils.runs import runs_dir
from thyroid_utils.statistics import holm, patient_bootstrap, power_simulation, wilcoxon_test
from thyroid_utils.training import fit_or_load

COMMON = {"loss": {"name": "tversky", "options": {"alpha": 0.3, "beta": 0.7}}}
TINY = AblationTable(
    "tiny",
    (
        AblationRow("small", "tiny_switched", {"attention": False}),
        AblationRow("attended", "tiny_switched", reported_iou=0.29, reported_share=0.9, remark="as told"),
        AblationRow("pooled", "tiny_switched", {"attention": False, "ppm": True}),
    ),
    "small",
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


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory):
    """A ledger and a cache for the file, the network, one thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(tmp_path_factory.mktemp(name.lower())))
        rule = InputRule(multiple=1, minimum=1)
        facts = {"what": "a test's", "paper": "", "made_from": "", "head": ("3.",), "size": 32}
        patch.setitem(SEGMENTERS, "tiny_switched", SegmenterArchitecture(tiny_switched, input_rule=lambda network: rule, **facts))
        cases = discs(tmp_path_factory.mktemp("discs"))
        patch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: cases)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@functools.cache
def tiny_runs() -> tuple:
    config = segmentation_config(training__epochs=2, optimiser__learning_rate=0.05, size=32)
    common = config.model_dump(exclude={"task", "model", "seed"})
    configs = ablation_configs(TINY, [0, 1], common, options={"tiny_switched": {"width": 3}})
    return tuple(fit_or_load(config) for config in configs)


@functools.cache
def tiny_table() -> pd.DataFrame:
    return ablation_table(TINY, ablation_comparison(TINY, tiny_runs()))


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_networks_that_can_be_built(name):
    table = TABLES[name]
    assert table.reference in [row.name for row in table.rows] and len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert set(row.switches) <= set(SWITCHES)
        with torch.device("meta"):
            network = build_segmenter(row.model, **row.switches)
            default = build_segmenter(row.model)
        # A switch at its default would make two configs of one network.
        assert not row.switches or parameter_count(network) != parameter_count(default), row.name
    assert np.isnan(table.row(table.reference).reported_iou)


def test_configs_of_a_table_differ_in_the_network_and_seed_alone():
    configs = ablation_configs("aspp", [3, 4], COMMON, weights="imagenet")
    plain = {"attention": False, "multi_skip": False, "ppm": False}
    assert [(config.model.options, config.seed) for config in configs] == [
        ({**plain, "separable_aspp": False}, 3), ({**plain, "separable_aspp": False}, 4), (plain, 3), (plain, 4),
    ]  # fmt: skip
    assert len({config.model_copy(update={"model": configs[0].model, "seed": 0}).to_json() for config in configs}) == 1


def test_one_network_in_several_tables_is_one_run():
    """18 rows; the separable ASPP is the modules' beginning, and the whole network stands in four tables."""
    configs = [config for table in TABLES for config in ablation_configs(table, [0], COMMON)]
    assert len(configs) == 18 and len({config.to_json() for config in configs}) == 14


def test_networks_without_an_encoder_start_from_scratch():
    configs = ablation_configs("method", [0], COMMON, weights="imagenet", options={"unet": {"widths": [4, 8]}})
    assert {config.model.name: config.model.weights for config in configs} == {
        "mobile_deeplab": "imagenet", "deeplabv3plus_xception": "imagenet", "unet": "none", "fcn8s": "imagenet",
    }  # fmt: skip
    assert configs[2].model.options == {"widths": [4, 8]}
    assert configs[1].model.options == {"separable_aspp": False}


def test_impossible_tables_are_refused():
    with pytest.raises(ConfigError, match="table must be one of aspp, modules, backbone, method, removed; found 'asp'"):
        ablation_configs("asp", [0], COMMON)
    with pytest.raises(ConfigError, match="of mobile_deeplab must not name ppm, which the rows of the table decide"):
        ablation_configs("modules", [0], COMMON, options={"mobile_deeplab": {"ppm": True, "width": 8}})
    with pytest.raises(DataError, match=r"no run of attended, pooled \(tiny\)"):
        ablation_comparison(TINY, tiny_runs()[:2])


def test_a_comparison_bears_the_rows_names_and_leaves_other_runs_aside():
    shuffled = [*tiny_runs()[::-1], tiny_runs()[0]]
    for run in shuffled:
        assert run.folder.parent == runs_dir()
    comparison = ablation_comparison(TINY, sorted(shuffled, key=lambda run: run.config.seed))
    assert comparison.models == ["small", "attended", "pooled"]
    assert {name: [run.config.seed for run in runs] for name, runs in comparison.runs.items()} == {
        "small": [0, 1], "attended": [0, 1], "pooled": [0, 1],
    }  # fmt: skip
    fewer = AblationTable("fewer", TINY.rows[:2], "small")
    assert ablation_comparison(fewer, tiny_runs()).models == ["small", "attended"]


def test_costs_and_claims_of_each_row():
    table = tiny_table()
    counts = {"small": 3 * 9 + 6 + 4, "attended": 6 * 9 + 12 + 7, "pooled": 9 * 9 + 18 + 10}  # gray images
    assert list(table.index) == list(counts)
    np.testing.assert_allclose(table["parameters"] * 1e6, list(counts.values()))
    np.testing.assert_allclose(table["share"], np.array(list(counts.values())) / counts["small"])
    seconds = [np.mean([run.environment["seconds"] for run in tiny_runs()[at : at + 2]]) for at in (0, 2, 4)]
    np.testing.assert_allclose(table["training_seconds"], seconds)
    assert (table["latency_ms"] > 0).all() and set(table["weights"]) == {"from scratch"}
    assert table.at["attended", "reported_points"] == 0.29 and table.at["attended", "reported_share"] == 0.9
    assert table.at["attended", "remark"] == "as told" and np.isnan(table.at["pooled", "reported_points"])


def test_differences_to_the_reference_by_another_road():
    """From the scores image by image; Holm's two p-values by hand: the smaller doubled, the larger no smaller than that."""
    table, comparison = tiny_table(), ablation_comparison(TINY, tiny_runs())
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
        assert (found.low, found.high, found.images) == (interval.low, interval.high, known.sum())
        p_values.append(wilcoxon_test(scores[row][known], scores["small"][known], patients[known]).p_value)
        assert found.p_value == p_values[-1]
    smaller, larger = sorted(p_values)
    by_hand = {smaller: min(1, 2 * smaller), larger: min(1, max(2 * smaller, larger))}
    np.testing.assert_allclose(table["p_holm"], [np.nan, *(by_hand[p] for p in p_values)])
    np.testing.assert_allclose(table["p_holm"][1:], holm(p_values))
    assert list(table["differs"]) == [bool(p < 0.05) for p in table["p_holm"]]
    assert table.at["small", "difference"] is None
    of_runs = comparison.by_run(["iou"])
    expected = [of_runs.loc[of_runs["model"] == row, "iou"].std(ddof=1) for row in table.index]
    np.testing.assert_allclose(table["seed_sd"], expected)
    assert table.at["pooled", "iou"].patients == comparison.truth["patient"].nunique()


def test_gains_by_seed_feed_the_power():
    comparison = ablation_comparison(TINY, tiny_runs())
    gains, patients = gain_by_seed(comparison, "pooled", "small")
    assert gains.shape == (2, len(comparison.truth)) and list(patients) == list(comparison.truth["patient"])
    own = comparison.tables["pooled"][1], comparison.tables["small"][1]
    expected = np.subtract(*(part[part["resolution"] == "own"]["iou"].to_numpy() for part in own))
    np.testing.assert_array_equal(gains[1], expected)
    powers = power_simulation(gains, patients, 0.003, (10, 100), (1, 3), simulations=50)
    assert len(powers) == 4 and powers["power"].between(0, 1).all()


def test_pareto_front_by_hand():
    cost = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 2.0, "e": 4.0, "f": np.nan, "g": 1.0})
    score = pd.Series({"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.6, "e": 0.7, "f": 0.9, "g": 0.5})
    assert pareto_front(cost, score) == ["a", "g", "b"]
    assert pareto_front(cost[["c"]], score[["c"]]) == ["c"] and pareto_front(cost[["f"]], score[["f"]]) == []


def test_parameter_counts_are_near_the_papers():
    table = parameter_counts()
    assert len(table) == sum(len(entry.rows) for entry in TABLES.values())
    told = table["reported_share"].notna()
    # The widths are ours; the furthest is ResNet50's, 2.8 % from 125 / 12.4.
    assert (table["share"] / table["reported_share"])[told].between(0.96, 1.04).all() and told.sum() == 5
    ours = table.loc[("Backbone (Table 6)", "MobileNetV2")]
    assert 3.0 <= ours["parameters"] <= 3.3 and ours["mebibytes"] == pytest.approx(12.4, rel=0.03)
    assert list(parameter_counts("aspp").index.get_level_values("row")) == ["ordinary", "separable"]


def test_the_papers_gains_are_those_that_its_text_quotes():
    """Of the methods the ledger of reported scores knows the same numbers."""
    scores = reported_scores("segmentation").query("paper == '003' and score == 'iou'").set_index(["model", "loss"])["value"]
    best = scores["mobile_deeplab", "tversky"]
    for row in TABLES["method"].rows[1:]:
        assert 100 * (scores[row.model, ""] - best) == pytest.approx(row.reported_iou)


def test_sums_that_do_and_do_not_add_up():
    table = sums_that_do_not_add_up().set_index("claim")
    assert list(table.columns) == ["paper", "computed", "how", "agrees"]
    wrong = [claim for claim, agrees in table["agrees"].items() if not agrees]
    assert wrong == [
        "gains of the three modules, points of IoU",
        "separable over ordinary convolution, weights",
        "accuracy with Tversky, %",
        "nodule pixels in the images of both losses, %",
        "specificity with Tversky, %",
        "energy consumption",
    ]
    assert table.at[wrong[0], "computed"] == "0.80" and table.at[wrong[1], "computed"] == "0.115"
    assert table.at[wrong[2], "paper"] == "98.17" and table.at[wrong[2], "computed"] == "98.37 to 98.59"
    assert table.at[wrong[5], "computed"] == "24 mJ an image"


def test_pixel_shares_by_hand():
    """80 pixels found rightly, 20 missed, 40 false alarms, 860 right background."""
    found = PixelTable(dice=160 / 220, sensitivity=0.8, specificity=860 / 900)
    assert found.precision == pytest.approx(80 / 120) and found.prevalence == pytest.approx(0.1)
    assert found.accuracy == pytest.approx(0.94) and found.specificity_at(0.1) == pytest.approx(860 / 900)


def test_bces_figures_are_of_one_table_and_tverskys_are_not():
    scores = reported_scores("segmentation").query("paper == '003' and model == 'mobile_deeplab'")
    of = {loss: part.set_index("score")["value"] for loss, part in scores.groupby("loss")}
    tables = {loss: PixelTable(v["dice"], v["sensitivity"], v["specificity"]) for loss, v in of.items()}
    assert tables["bce"].accuracy == pytest.approx(of["bce"]["pixel_accuracy"], abs=1e-4)
    assert abs(tables["tversky"].accuracy - of["tversky"]["pixel_accuracy"]) > 0.003
