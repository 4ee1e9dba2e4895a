"""003's tables as configs and runs: which networks, what their runs say on tiny ones, and the paper's sums."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import discs
from torch import nn
from training_project import segmentation_config

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.words import whole
from thyroid_utils.models import Architecture
from thyroid_utils.models.networks import build_segmenter, parameter_count
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.scores.power import paired_power, seed_components
from thyroid_utils.scores.recipes import compare_recipes, mean_influence
from thyroid_utils.studies.module_ablation import (
    AblationStudy,
    gain_power,
    pareto_front,
    power_table,
    power_told,
    reading_table,
)
from thyroid_utils.studies.module_ablation.tables import (
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
from thyroid_utils.studies.tables import told_difference
from thyroid_utils.training.fit import fit_or_load

COMMON = {"loss": {"name": "tversky", "options": {"alpha": 0.3, "beta": 0.7}}}
ROWS = (
    AblationRow("small", "tiny_switched", {"attention": False}),
    AblationRow("attended", "tiny_switched", reported_iou=0.29, reported_share=0.9, remark="as told"),
    AblationRow("pooled", "tiny_switched", {"attention": False, "ppm": True}),
)
TINY = AblationTable("tiny", "small", ROWS)
# Shares two networks with it, one of them under another name.
RENAMED = replace(ROWS[2], name="complete", label="pooled"), replace(ROWS[0], name="bare", label="small")
OTHER = AblationTable("removed", "complete", RENAMED)


def tiny_switched(in_channels: int, classes: int, attention: bool = True, ppm: bool = False, width: int = 4) -> nn.Module:
    """Stands in for the switches: wider where one is on."""
    width *= 1 + attention + 2 * ppm
    convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, classes, 1))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The study of both tables by number of seeds; the runs in any order, one given twice."""
    with discs(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEGMENTERS, "tiny_switched", Architecture(tiny_switched, size=32))
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
            for each in found.values():  # whatever validation says of runs as short as these
                each.whole.__dict__["untrained"] = []
            assert AblationStudy.of(["removed"], runs, 0.7).whole.models == ["pooled", "small"]
            with pytest.raises(DataError, match="no run of attended, pooled"):
                AblationStudy.of(["modules"], runs[:2], 0.7)
        yield found


@pytest.fixture(scope="module")
def study(studies):
    return studies[2]


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_networks_that_can_be_built(name):
    table = TABLES[name]
    assert table.reference in [row.name for row in table.rows] and len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        # A switch at its default would make two configs of one network.
        assert not row.switches or count_parameters(row.model, **row.switches) != count_parameters(row.model), row.name


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


def test_impossible_tables_are_refused():
    fixed, misspelt = {"mobile_deeplab": {"ppm": True, "width": 8}}, {"mobile_deplab": {"width": 8}}
    for table, options in (("asp", {}), ("modules", fixed), ("aspp", misspelt)):
        with pytest.raises(ConfigError):
            study_configs([table], [0], COMMON, options=options)


def test_costs_and_claims_of_each_row_and_each_network_scored_and_timed_once(study):
    table = study.results["modules"]
    counts = {"small": 3 * 9 + 6 + 4, "attended": 6 * 9 + 12 + 7, "pooled": 9 * 9 + 18 + 10}  # gray images
    assert list(table.index) == list(counts) == study.whole.models
    np.testing.assert_allclose(table["parameters"] * 1e6, list(counts.values()))
    np.testing.assert_allclose(table["share"], np.array(list(counts.values())) / counts["small"])
    assert list(table.loc["attended", ["reported_points", "reported_share", "remark"]]) == [0.29, 0.9, "as told"]
    modules, removed = study.results["modules"], study.results["removed"]
    assert list(removed.index) == ["complete", "bare"] and list(removed["network"]) == ["pooled", "small"]
    assert removed.at["bare", "difference"].difference == pytest.approx(-modules.at["pooled", "difference"].difference)
    assert list(study.titled) == ["tiny", "removed"]
    assert list(study.networks.index) == ["small", "attended", "pooled"] and study.front("parameters")[0] == "small"


def test_differences_to_the_reference_are_of_recipes(study):
    """From the scores image by image; Holm's two p-values by hand: the smaller doubled, the larger no smaller than that."""
    table, comparison = study.results["modules"], study.whole
    scores = {
        row: np.stack([part.loc[part["resolution"] == "own", "iou"] for part in comparison.tables[row]])
        for row in ("small", "attended", "pooled")
    }
    expected = {
        row: compare_recipes(mean_influence(scores[row]), mean_influence(scores["small"]), study.patients, 1)
        for row in ("attended", "pooled")
    }
    for row, found in expected.items():
        assert told_difference(table.at[row, "difference"], 9) == told_difference(found, 9)
    p_values = [found.p_value for found in expected.values()]
    smaller, larger = sorted(p_values)
    by_hand = {smaller: min(1, 2 * smaller), larger: min(1, max(2 * smaller, larger))}
    np.testing.assert_allclose(table["p_holm"], [np.nan, *(by_hand[p] for p in p_values)])
    assert list(table["differs"]) == [bool(p < 0.05) for p in table["p_holm"]] and table.at["small", "difference"] is None
    of_runs = comparison.by_run(["iou"])
    expected = [of_runs.loc[of_runs["model"] == row, "iou"].std(ddof=1) for row in table.index]
    np.testing.assert_allclose(table["seed_sd"], expected)


def test_all_together_against_the_sum_of_single_gains_and_the_spread_over_seeds(study, studies):
    """pooled − small − (attended − small), image by image."""
    values = 100 * (study.scores["pooled"] - study.scores["attended"]).to_numpy()
    expected, found = compare_recipes(mean_influence(values), mean_influence(0 * values), study.patients), study.together()
    np.testing.assert_allclose([found.difference, found.low, found.high], [expected.difference, expected.low, expected.high])
    assert replace(study, tables={"aspp": OTHER}).together() is None
    gains = [gain for _, _, gain in study.gains()]
    squares = [seed_components(gain, study.patients)[0] for gain in gains]
    assert len(squares) == 3 and study.measured_sd == pytest.approx(100 * np.sqrt(max(0.0, np.mean(squares))))
    assert study.seed_sd == study.measured_sd and "measured" in study.basis
    assert studies[1].seed_sd == 0.7 and "assumed" in studies[1].basis


def test_power_of_a_study_and_patients_for_each_gain(study, studies):
    powers = gain_power(study, gain=2.0, patients_grid=(5, 50), seeds_grid=(1, 4), simulations=50)
    assert list(powers.table["gain"]) == [0.29, 2.0, 2.0] and list(powers.curves) == ["attended: 0.29 points"]
    gains = next(gains for _, row, gains in study.gains() if row.name == "pooled")
    spread = (100 * gains.mean()).groupby(study.patients.to_numpy()).mean().std(ddof=1)
    count, row = study.patients.nunique(), powers.table.loc[("modules", "pooled")]
    assert row["power"] == pytest.approx(paired_power(2.0, spread, count, 2, study.seed_sd))
    assert paired_power(row["smallest"], spread, count, 2, study.seed_sd) == pytest.approx(0.8)
    shown = power_table(powers)
    assert list(shown.columns[2:4]) == ["patients, 1 seed", "patients, 4 seeds"]
    assert (shown["patients, 1 seed"] == "no test").all(), "one training gives no verdict"
    alone = gain_power(studies[1], gain=2.0, patients_grid=(5,), seeds_grid=(4,), simulations=20)
    assert alone.table[["power", "smallest"]].isna().all(axis=None)
    for by_fold, told in ((False, "It sees no gain of a recipe"), (True, "Its test is over folds")):
        assert power_told(alone, by_fold).startswith(told)


def test_tables_as_they_are_read_and_no_verdict_on_rows_that_have_not_learnt(study, studies):
    shown = reading_table(study, "modules")
    assert list(shown.loc["small", ["difference, points", "differs"]]) == ["reference", ""]
    assert not {"remark", "paper, ×", "paper, points"} & set(reading_table(study, "removed")), "columns that say nothing"
    assert reading_table(study, "aspp").empty
    as_backbone = replace(study, tables={"aspp": TINY, "backbone": TINY})
    assert reading_table(as_backbone, "aspp").at["small", "time, ×"] == 1
    assert "latency, ms" in reading_table(as_backbone, "backbone")
    network = build_segmenter("mobile_deeplab", in_channels=1)
    assert stage_table(network_stages(network, 64))["parameters"].sum() == parameter_count(network)
    blank = replace(studies[2], whole=replace(studies[2].whole))
    blank.whole.__dict__.update(tables=studies[2].whole.tables, untrained=["pooled"])
    table = blank.results["modules"]
    assert np.isnan(table.at["pooled", "p_holm"]) and not np.isnan(table.at["attended", "p_holm"])
    assert reading_table(blank, "modules").at["pooled", "differs"] == ""


def test_one_case_goes_through_the_plainest_and_the_fullest_network_part_by_part():
    table, names = TABLES["modules"], ("true_positives", "false_positives", "false_negatives")
    networks = {row.network: build_segmenter("mobile_deeplab", in_channels=1, width=8, **row.switches) for row in table.rows}
    config = SimpleNamespace(size=32)
    runs = {name: [SimpleNamespace(load_model=lambda own=own: own, config=config)] for name, own in networks.items()}
    for (run,) in runs.values():
        run.of_case = lambda case, run=run: run
    scored = pd.DataFrame([{**dict(zip(names, (30, 10, 20), strict=True)), "dice": 2 / 3, "resolution": "own"}], ["a/1"])
    compared = SimpleNamespace(runs=runs, tables={name: [scored] for name in runs})
    shown = AblationStudy({"modules": table}, compared, 1.0).one_case("a/1")
    plain, full = table.rows[0].network, table.rows[-1].network
    assert list(shown.columns) == [plain, full]
    assert list(shown.loc["TP, FP, FN"]) == ["30, 10, 20"] * 2 and list(shown.loc["Dice"]) == ["0.667"] * 2
    for name in (plain, full):
        assert shown.at["weights", name] == whole(parameter_count(networks[name]))
    assert shown.at["mobilenet_v2", plain] == shown.at["mobilenet_v2", full] and shown.index[0] == "mobilenet_v2"
    assert pd.isna(shown.at["PPM", plain]) and shown.at["PPM", full].startswith("640×2×2, "), "a part that is off"
    assert list(shown.index[-4:]) == ["logits", "weights", "TP, FP, FN", "Dice"]


def test_pareto_front_parameter_counts_and_the_papers_sums():
    cost = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 2.0, "e": 4.0, "f": np.nan, "g": 1.0})
    score = pd.Series({"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.6, "e": 0.7, "f": 0.9, "g": 0.5})
    assert pareto_front(cost, score) == ["a", "g", "b"] and pareto_front(cost[["f"]], score[["f"]]) == []
    table = count_table()
    assert len(table) == sum(len(entry.rows) for entry in TABLES.values())
    told = table["paper, ×"].notna()
    # The widths are ours; the furthest is ResNet50's, 2.8 % from 125 / 12.4.
    assert (table["× reference"] / table["paper, ×"])[told].between(0.96, 1.04).all() and told.sum() == 5
    ours = table.loc[("Backbone (Table 6)", "MobileNetV2")]
    assert 3.0 <= ours["parameters, M"] <= 3.3 and ours["float32, MiB"] == pytest.approx(12.4, rel=0.03)
    table = pd.concat({place: sums_table(place) for place in ("loss", "aspp", "modules", "backbone", "method", "text")})
    assert len(table) == 15 and (table["agrees"] == "no").sum() == 6
    computed = table["computed"].droplevel(0)
    assert computed["gains of the three modules, points of IoU"] == "0.80"
    assert computed["separable over ordinary convolution, weights"] == "0.115"
    assert computed["accuracy with Tversky, %"] == "98.37 to 98.59" and computed["energy consumption"] == "24 mJ an image"
