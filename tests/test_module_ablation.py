"""003's tables as configs and runs: which networks, what their runs say on tiny ones, and the paper's sums."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from segmentation_project import segmentation_config
from test_segmenter_comparison import discs
from torch import nn

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError
from thyroid_utils.models import SEGMENTERS, build_segmenter, parameter_count
from thyroid_utils.models.segmenter_architectures import InputRule, SegmenterArchitecture
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import Estimate, patient_bootstrap
from thyroid_utils.scores.power import paired_power, power_simulation, seed_components
from thyroid_utils.studies.module_ablation import (
    SWITCHES,
    TABLES,
    AblationRow,
    AblationStudy,
    AblationTable,
    ablation_comparison,
    ablation_configs,
    ablation_findings,
    ablation_table,
    cost_table,
    count_table,
    gain_by_seed,
    gain_power,
    network_stages,
    parameter_counts,
    pareto_front,
    power_table,
    reading_table,
    stage_table,
    study_configs,
    sums_table,
    sums_that_do_not_add_up,
)
from thyroid_utils.studies.module_ablation.sums import PixelTable
from thyroid_utils.studies.papers import reported_scores
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.training.ledger import runs_dir

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


def test_configs_of_a_study_hold_each_network_once():
    configs = study_configs(list(TABLES), [0, 1], COMMON)
    assert len(configs) == len({config.to_json() for config in configs}) == 28
    assert study_configs(["aspp"], [0], COMMON) == ablation_configs("aspp", [0], COMMON)


def test_a_network_has_one_name_and_a_name_one_network():
    rows = [row for table in TABLES.values() for row in table.rows]
    names = {(row.key, row.network or row.name) for row in rows}
    assert len(names) == len({key for key, _ in names}) == len({name for _, name in names}) == 14


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
    with pytest.raises(ConfigError, match="are given for mobile_deplab, which is in no table; known: deeplab"):
        ablation_configs("aspp", [0], COMMON, options={"mobile_deplab": {"width": 8}})
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
    """From the scores image by image, and patients' signs flipped one by one (few enough for all flips); Holm's two p-values by
    hand: the smaller doubled, the larger no smaller than that."""
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
        sums = pd.Series(gap).groupby(patients[known]).sum().to_numpy()
        assert 2 <= len(sums) <= 12
        flipped = [abs(np.dot(signs, sums)) >= abs(sums.sum()) * (1 - 1e-9) for signs in product((-1, 1), repeat=len(sums))]
        p_values.append(float(np.mean(flipped)))
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


def tiny_study(seeds: int = 2) -> AblationStudy:
    """Two tables that share two networks, one of them under another name."""
    rows = replace(TINY.rows[2], name="complete", network="pooled"), replace(TINY.rows[0], name="bare", network="small")
    removed = AblationTable("removed", rows, "complete")
    return AblationStudy.of({"modules": TINY, "removed": removed}, [run for run in tiny_runs() if run.config.seed < seeds])


def test_a_study_scores_and_times_each_network_once():
    study = tiny_study()
    assert study.whole.models == ["small", "attended", "pooled"] and study.seeds == 2
    modules, removed = study.results["modules"], study.results["removed"]
    assert list(removed.index) == ["complete", "bare"] and list(removed["network"]) == ["pooled", "small"]
    assert removed.at["bare", "latency_ms"] == modules.at["small", "latency_ms"]
    assert removed.at["bare", "difference"].difference == pytest.approx(-modules.at["pooled", "difference"].difference)
    unmeasured = [column for column in modules if column != "latency_ms"]
    pd.testing.assert_frame_equal(modules[unmeasured], tiny_table()[unmeasured])
    assert list(study.networks.index) == ["small", "attended", "pooled"]
    titled = study.titled(0.01)
    assert list(titled) == ["tiny", "removed"] and np.isnan(titled["tiny"].at["small", "wide_low"])
    ends = titled["tiny"].loc["attended", ["wide_low", "wide_high"]]
    assert tuple(ends) == study.with_seeds(0.01)["modules", "attended"]
    shown = cost_table(study)
    assert list(shown.index) == ["small", "attended", "pooled"]  # by rising size
    assert list(shown["on the front by"].str.contains("parameters")) == [row in study.front("parameters") for row in shown.index]


def test_all_together_against_the_sum_of_single_gains():
    """pooled − small − (attended − small), image by image."""
    study = tiny_study()
    scores = study.whole.by_image(["iou"]).pivot(index="case", columns="model", values="iou").loc[study.whole.truth.index]
    excess = 100 * (scores["pooled"] - scores["attended"])
    expected = patient_bootstrap(excess, study.whole.truth["patient"], resamples=2000)
    found = study.together()
    assert isinstance(found, Estimate)
    np.testing.assert_allclose([found.value, found.low, found.high], [expected.value, expected.low, expected.high])
    assert study.together("aspp") is None


def test_the_spread_over_seeds_is_pooled_over_rows():
    study = tiny_study()
    squares = [seed_components(gain, patients)[0] for _, _, gain, patients in study.gains()]
    assert len(squares) == 3 and study.seed_sd == pytest.approx(np.sqrt(max(0.0, np.mean(squares))))
    means = study.whole.by_run(["iou"]).pivot(index="seed", columns="model", values="iou")
    assert study.seed_sd <= np.sqrt((means["attended"] - means["small"]).var(ddof=1) * 3), "less than the means' own spread"
    assert np.isnan(tiny_study(1).seed_sd)


def test_power_of_a_study_and_patients_for_each_gain():
    study = tiny_study()
    powers = gain_power(study, gain=2.0, patients_grid=(5, 50), seeds_grid=(1, 4), simulations=50)
    assert list(powers.table.index) == [("modules", "attended"), ("modules", "pooled"), ("removed", "bare")]
    assert list(powers.table["gain"]) == [0.29, 2.0, 2.0] and list(powers.table["whose"]) == ["paper", "asked", "asked"]
    assert powers.measured and powers.seed_sd == pytest.approx(100 * study.seed_sd)
    assert "measured, pooled over all rows" in powers.basis
    assert list(powers.curves) == ["attended: 0.29 points"] and len(powers.curves["attended: 0.29 points"]) == 4
    gains, patients = gain_by_seed(study.comparison("modules"), "pooled", "small")
    spread = pd.Series(100 * gains.mean(axis=0)).groupby(patients.to_numpy()).mean().std(ddof=1)
    count = patients.nunique()
    row = powers.table.loc[("modules", "pooled")]
    assert row["patient_sd"] == pytest.approx(spread)
    assert row["power"] == pytest.approx(paired_power(2.0, spread, count, 2, powers.seed_sd))
    assert paired_power(row["smallest"], spread, count, 2, powers.seed_sd) == pytest.approx(0.8)
    shown = power_table(powers)
    assert list(shown.columns[2:4]) == ["patients, 1 seed", "patients, 4 seeds"]
    assert shown.iloc[:, 2:4].map(lambda text: text[0] in "≤>" or text.isdigit()).all(axis=None)


def test_one_seed_takes_the_spread_that_is_given():
    study = tiny_study(1)
    powers = gain_power(study, seed_sd=0.7, patients_grid=(5, 50), seeds_grid=(1,), simulations=20)
    assert powers.seed_sd == 0.7 and not powers.measured and "assumed" in powers.basis
    assert any("trained once" in line for line in ablation_findings(study, powers))
    with pytest.raises(ValueError, match="gain is 0, seed_sd"):
        gain_power(study, gain=0)


def test_tables_as_they_are_read():
    study = tiny_study()
    shown = reading_table(study, "modules", 1.0)
    assert shown.at["small", "difference, points"] == "reference" and shown.at["small", "with seeds"] == ""
    found = study.results["modules"].loc["attended"]
    gap = found["difference"]
    text = f"{100 * gap.difference:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    assert shown.at["attended", "difference, points"].replace("\u00a0", " ") == text
    assert list(shown["paper, points"]) == ["", "+0.29", ""] and shown.at["attended", "remark"] == "as told"
    low, high = study.with_seeds(0.01)["modules", "attended"]
    assert low < gap.low and high > gap.high  # a point of luck in two trainings is more than these patients' spread
    assert (low + high) / 2 == pytest.approx(gap.difference)
    assert not {"remark", "paper, ×", "paper, points"} & set(reading_table(study, "removed", 1.0)), "columns that say nothing"
    assert reading_table(study, "aspp", 1.0).empty
    sentences = ablation_findings(study, gain_power(study, patients_grid=(5, 50), seeds_grid=(1,), simulations=20))
    assert len(sentences) == 5 and "**tiny**: " in sentences[0] and not any("trained once" in line for line in sentences)


def test_parts_of_a_network_as_they_are_read():
    network = build_segmenter("mobile_deeplab", in_channels=1)
    shown = stage_table(network_stages(network, 64))
    assert shown["parameters"].sum() == parameter_count(network) and shown["share, %"].sum() == pytest.approx(100, abs=1)
    assert shown.at["horizontal", "reads"] == "F, vertical 1/4 = V" and shown.at["F", "output"] == "256×4×4"
    stages = network_stages(network, 64).assign(inputs=[(("", 3, 8, 8), ("", 4, 8, 8))] * len(shown))
    assert set(stage_table(stages)["reads"]) == {"between"}


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
    assert list(count_table().columns) == ["parameters, M", "float32, MiB", "× reference", "paper, ×"]
    assert list(parameter_counts("aspp").index.get_level_values("row")) == ["ordinary", "separable"]


def test_the_papers_gains_are_those_that_its_text_quotes():
    """Of the methods the ledger of reported scores knows the same numbers."""
    scores = reported_scores("segmentation").query("paper == '003' and score == 'iou'").set_index(["model", "loss"])["value"]
    best = scores["mobile_deeplab", "tversky"]
    for row in TABLES["method"].rows[1:]:
        assert 100 * (scores[row.model, ""] - best) == pytest.approx(row.reported_iou)


def test_sums_that_do_and_do_not_add_up():
    table = sums_that_do_not_add_up().set_index("claim")
    assert list(table.columns) == ["table", "paper", "computed", "how", "agrees"]
    wrong = [claim for claim, agrees in table["agrees"].items() if not agrees]
    assert wrong == [
        "accuracy with Tversky, %",
        "nodule pixels in the images of both losses, %",
        "specificity with Tversky, %",
        "separable over ordinary convolution, weights",
        "gains of the three modules, points of IoU",
        "energy consumption",
    ]
    assert list(table.loc[wrong, "table"]) == ["loss", "loss", "loss", "aspp", "modules", "text"]
    assert table.at[wrong[4], "computed"] == "0.80" and table.at[wrong[3], "computed"] == "0.115"
    assert table.at[wrong[0], "paper"] == "98.17" and table.at[wrong[0], "computed"] == "98.37 to 98.59"
    assert table.at[wrong[5], "computed"] == "24 mJ an image"


def test_sums_of_one_place_are_those_of_the_whole():
    whole = sums_that_do_not_add_up()
    for place in ("loss", *TABLES, "text"):
        part = sums_that_do_not_add_up(place)
        assert part.equals(whole[whole["table"] == place].reset_index(drop=True)) and (len(part) > 0) == (place != "removed")
    with pytest.raises(ValueError, match="table is 'asp'; expected one of loss, aspp"):
        sums_that_do_not_add_up("asp")
    shown = sums_table("aspp")
    assert list(shown.columns) == ["paper", "computed", "how", "agrees"] and list(shown["agrees"]) == ["no", "yes"]


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
