"""What several segmenters' maps say together: on tiny runs, against the same numbers by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dual_stage_project import configs_of, discs
from scipy.ndimage import map_coordinates

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference import predictor
from thyroid_utils.inference.predictor import Predictor, map_scores
from thyroid_utils.scores.comparisons import holm
from thyroid_utils.scores.estimates import few_told, patient_estimate
from thyroid_utils.scores.masks import SEGMENTATION_SCORES, segmentation_scores
from thyroid_utils.scores.recipes import ONE_TRAINING, compare_recipes, mean_influence
from thyroid_utils.studies.compare import comparison_configs
from thyroid_utils.studies.followed import to_dice
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.studies.tables import pair_table, told_difference
from thyroid_utils.training.data import split_data
from thyroid_utils.training.fit import fit_or_load

WIDE = {"tiny_segmenter": {"width": 12}}


def common() -> dict:
    (config,) = configs_of([0])["segmenter"]
    return config.model_dump(exclude={"model", "seed"})


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    with discs(tmp_path_factory):
        configs = [
            config
            for options in (None, WIDE)
            for config in comparison_configs(["tiny_segmenter"], [0, 1], common(), options=options)
        ]
        yield SegmenterComparison.of([fit_or_load(config) for config in configs])


def test_every_score_is_that_of_the_maps_at_both_resolutions(comparison):
    """Image by image, by another road: SciPy's interpolation at the frame's pixel centres."""
    run = comparison.runs["tiny_segmenter"][1]
    table, data = comparison.tables["tiny_segmenter"][1], split_data(run.config)
    names, maps = run.maps()
    store = Predictor(run).store
    for case, probability in zip(names, maps, strict=True):
        row, position = data.cases.loc[case], data.cases.index.get_loc(case)
        rows = {resolution: part.loc[case] for resolution, part in table.groupby("resolution")}
        at_network = segmentation_scores(store.masks[position], probability >= 0.5)
        truth = read_mask(row["mask"])
        places = np.meshgrid(*[(np.arange(side) + 0.5) * 64 / side - 0.5 for side in truth.shape], indexing="ij")
        own = map_coordinates(probability, places, order=1, mode="nearest")
        at_own = segmentation_scores(truth, own >= 0.5, spacing=row["spacing_mm"])
        for resolution, expected in (("network", at_network), ("own", at_own)):
            for name in SEGMENTATION_SCORES:
                assert rows[resolution][name] == pytest.approx(expected[name], nan_ok=True), (resolution, name)
        assert rows["own"]["presence"] in ("both", "missed") and np.isnan(rows["network"]["hd95_mm"])


def test_one_case_is_followed_from_its_frame_to_its_dice(comparison):
    case = comparison.truth.index[0]
    told = to_dice(comparison, "tiny_segmenter", case)[case]
    _, truth, probability = comparison.picture("tiny_segmenter", case)
    found = probability >= 0.5
    tp, fp, fn = (truth & found).sum(), (found & ~truth).sum(), (truth & ~found).sum()
    assert told["0. input"].startswith("96 × 96 pixels, ") and told["truth"] == f"{truth.sum()} pixels"
    assert told["both, the mask alone, the truth alone, neither"] == f"TP {tp}, FP {fp}, FN {fn}, TN {truth.size - tp - fp - fn}"
    assert told.iloc[-1] == f"{2 * tp} / {2 * tp + fp + fn} = {2 * tp / (2 * tp + fp + fn):.2f}"


def test_tables_are_measured_once_and_a_damaged_one_again(comparison, monkeypatch):
    first = comparison.tables["tiny_segmenter"][0]
    asked = Predictor(comparison.runs["tiny_segmenter"][0])
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "_measured", lambda *_: pytest.fail("measured again"))
        pd.testing.assert_frame_equal(map_scores(asked), first)
    for path in (paths.cache_dir() / "map_scores").glob("*.json"):
        path.write_text(path.read_text().replace("0.", "1.", 1))
    pd.testing.assert_frame_equal(map_scores(asked), first)


def test_tables_are_measured_again_where_maps_or_spacing_are_others(comparison, monkeypatch):
    run = comparison.runs["tiny_segmenter"][0]
    asked, other = Predictor(run), Predictor(run)
    other.cases = asked.cases.assign(spacing_mm=2 * asked.cases["spacing_mm"])
    first, wide = map_scores(asked), map_scores(other)
    known = first["hd95_mm"].notna()
    assert known.any() and wide.loc[known, "hd95_mm"].to_numpy() == pytest.approx(2 * first.loc[known, "hd95_mm"].to_numpy())
    monkeypatch.setitem(run.__dict__, "hashes", {**run.hashes, "maps.safetensors": "those of a run made again"})
    monkeypatch.setattr(predictor, "_measured", lambda *_: first.assign(dice=0.125))
    assert (map_scores(asked)["dice"] == 0.125).all()


def own(comparison, model: str, score: str) -> list[pd.Series]:
    return [table.loc[table["resolution"] == "own", score] for table in comparison.tables[model]]


def test_estimates_are_means_over_images_and_seeds_with_intervals_over_patients(comparison):
    estimates, patients = comparison.estimates(["hd95", "dice"]), comparison.truth["patient"]
    dice = {model: np.mean([values.mean() for values in own(comparison, model, "dice")]) for model in comparison.models}
    assert list(estimates.index) == sorted(dice, key=dice.get, reverse=True)
    for model in comparison.models:
        found = estimates.at[model, "dice"]
        assert found.value == pytest.approx(dice[model])
        expected = patient_estimate(np.mean(own(comparison, model, "dice"), axis=0), patients, share=True)
        # Left out from sums instead of from means: equal but for rounding.
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high)) and 0 < found.low < found.high < 1
        assert estimates.at[model, "hd95"].low > 0, "a distance is above 0"


def test_pooled_scores_count_all_pixels_together(comparison):
    protocols = comparison.protocols()
    for model, runs in comparison.runs.items():
        rows = [run.predictions[run.predictions["split"] == "test"].sum(numeric_only=True) for run in runs]
        wrong = [row["false_positives"] + row["false_negatives"] for row in rows]
        hits = [row["true_positives"] for row in rows]
        expected = np.mean([2 * hit / (2 * hit + missed) for hit, missed in zip(hits, wrong, strict=True)])
        assert protocols.at[model, "pooled, network"].value == pytest.approx(expected)
        per_image = np.mean([run.metrics["test"]["dice"] for run in runs])
        assert protocols.at[model, "per image, network"].value == pytest.approx(per_image)
        dice = comparison.every_score(model).loc["dice"]
        assert [found.value for found in dice] == pytest.approx([found.value for found in protocols.loc[model]])
    values = np.array([[estimate.value for estimate in row] for row in protocols.to_numpy()])
    assert comparison.protocol_shift() == pytest.approx(max(np.ptp(values, axis=1))) and comparison.protocol_shift() > 0


def learnt(comparison) -> SegmenterComparison:
    """The same, whatever validation says of runs as short as these."""
    comparison.__dict__["untrained"] = []
    return comparison


def test_pairs_are_of_recipes_and_adjusted_by_holm(comparison):
    (row,) = learnt(comparison).pairs().to_dict("records")
    first, second = (np.stack(own(comparison, row[name], "dice")) for name in ("first", "second"))
    expected = compare_recipes(mean_influence(first), mean_influence(second), comparison.truth["patient"], 1)
    assert told_difference(row["difference"], 9) == told_difference(expected, 9) and expected.seeds == 2
    assert (
        row["first"] == comparison.chosen
        and row["p_holm"] == pytest.approx(expected.p_value)
        and row["differs"] == (expected.p_value < 0.05)
    )
    assert pair_table(comparison.pairs())["differs"].tolist() == ["yes" if row["differs"] else "no"]
    assert comparison.started == "all from scratch" and comparison.sides and len(comparison.history()) == 16
    truths, found = comparison.masks("tiny_segmenter")
    hits = own(comparison, "tiny_segmenter", "true_positives")[0].tolist()
    assert [int((truth & called).sum()) for truth, called in zip(truths, found, strict=True)] == hits
    assert comparison.models == ["tiny_segmenter", "tiny_segmenter (width 12)"] and comparison.plan == "2 training seeds"
    assert comparison.band.startswith("; line: mean, band")


def test_one_training_gives_no_verdict_and_says_why(comparison):
    (one, two), (three, four) = comparison.runs.values()
    alone = learnt(SegmenterComparison.of([one], key="loss"))
    assert alone.band == ""
    assert alone.pairs().empty and alone.models == ["bce_dice"] and pair_table(alone.pairs()).empty
    assert alone.lead(alone.pairs(), "Dice") == "Alone it cannot be ranked."
    pairs = learnt(SegmenterComparison({"a": [one], "b": [two], "c": [three], "d": [four]})).pairs()
    assert len(pairs) == 6 and pairs["p_holm"].isna().all() and not pairs["differs"].any()
    assert pairs["p_holm"].tolist() == pytest.approx(list(holm([np.nan] * 6)), nan_ok=True)
    shown = pair_table(pairs)
    assert shown["differs"].unique().tolist() == ["–"] and shown["why"].unique().tolist() == [ONE_TRAINING]
    assert shown["difference [95 %]"].str.contains(r"\[[−+]").all(), "the interval of these networks is there"
    said = learnt(SegmenterComparison({"a": [one], "b": [two]}))
    told = said.lead(said.pairs(), "Dice")
    assert "This run cannot say whether the recipes differ: one training of each" in told and "SEEDS" in told
    assert said.verdicts(said.pairs(), "Dice") == f"No verdict on Dice: {ONE_TRAINING}."


def test_empty_truths_are_judged_by_the_truth_alone():
    """Network a is silent on 20 images without a nodule, b outlines something there; their nodules are alike: no difference."""
    truth = pd.DataFrame({"patient": [f"p{n}" for n in range(100)], "area": [30] * 80 + [0] * 20})
    dice = np.random.default_rng(0).uniform(0.6, 1, 80)
    tables = {}
    for model, empty in (("a", np.nan), ("b", 0.0)):
        counts = {"true_positives": [9] * 80 + [0] * 20, "false_positives": [0] * 80 + [0 if model == "a" else 7] * 20}
        table = pd.DataFrame({"dice": [*dice, *[empty] * 20], **counts, "resolution": "own"}, truth.index)
        tables[model] = [table] * 3
    comparison = learnt(SegmenterComparison({"a": [None] * 3, "b": [None] * 3}))
    comparison.__dict__.update(tables=tables, truth=truth, validation=pd.Series({"a": 0.8, "b": 0.7}))
    for model in "ab":
        estimate = comparison.estimates(["dice"]).at[model, "dice"]
        assert (estimate.value, estimate.images) == (pytest.approx(dice.mean()), 80)
    found = comparison.pairs()["difference"].iloc[0]
    assert (found.difference, found.p_value, found.images) == (0, 1, 80)
    expected = {"with nodule": 80, "missed": 0, "missed by all": 0, "without nodule": 20, "false alarms": 20, "share": 1.0}
    assert comparison.presence().loc["b"].to_dict() == expected


def test_what_has_not_learnt_gets_no_verdict(comparison):
    """Beside the runs, one that calls nothing nodule on validation."""
    one, two = comparison.runs.values()
    blank = [SimpleNamespace(**{**vars(run), "metrics": {"val": {"dice": 0.0}}, "data": run.data}) for run in two]
    pair = SegmenterComparison({"learns": one, "blank": blank})
    pair.__dict__["tables"] = dict(zip(pair.models, comparison.tables.values(), strict=True))
    pair.__dict__["truth"] = comparison.truth
    assert "blank" in pair.untrained and "blank" in pair.banner and "EPOCHS" in pair.banner
    found = pair.pairs()["difference"].iloc[0]
    assert np.isnan(found.p_value) and "validation does not show" in pair.verdicts(pair.pairs(), "Dice")
    patients = comparison.truth["patient"].nunique()
    assert learnt(comparison).banner == few_told(patients, "", "test patients with a nodule", score="dice")


def test_the_choice_is_made_on_validation(comparison):
    val = {model: np.mean([run.metrics["val"]["dice"] for run in runs]) for model, runs in comparison.runs.items()}
    assert comparison.chosen == max(val, key=val.get)


def test_stability_is_a_number(comparison):
    stability = comparison.stability()
    for model, runs in comparison.runs.items():
        dice = [values.mean() for values in own(comparison, model, "dice")]
        assert stability.at[model, "seed_sd"] == pytest.approx(np.std(dice, ddof=1)) and stability.at[model, "seeds"] == 2
        # The last third of four epochs is one: its change is from the third to the fourth.
        changes = [abs(run.history["val_dice"].loc[4] - run.history["val_dice"].loc[3]) for run in runs]
        assert stability.at[model, "epoch_change"] == pytest.approx(np.mean(changes))


def test_examples_are_the_ends_and_the_middle(comparison):
    found = comparison.examples("tiny_segmenter", count=2)
    dice = own(comparison, "tiny_segmenter", "dice")[0].sort_values()
    assert found["kind"].tolist() == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2 and found.index.is_unique
    assert found["dice"].iloc[0] == dice.iloc[-1] and found["dice"].iloc[4] == dice.iloc[0]
    assert dice.iloc[:2].max() <= found["dice"].iloc[2:4].min() and found["dice"].iloc[2:4].max() <= dice.iloc[-2:].min()
    _, truth, probability = comparison.picture("tiny_segmenter", found.index[0])
    scores = segmentation_scores(truth, probability >= 0.5)
    assert scores["dice"] == pytest.approx(found["dice"].iloc[0])


def test_sizes_and_the_smallest(comparison):
    truth = comparison.truth
    cases = split_data(comparison.runs["tiny_segmenter"][0].config).cases
    for case, row in truth.iterrows():
        mask = read_mask(cases.at[case, "mask"])
        assert row["area"] == mask.sum() and row["share"] == pytest.approx(mask.mean())
        assert row["diameter_mm"] == pytest.approx(2 * np.sqrt(mask.sum() / np.pi) * cases.at[case, "spacing_mm"])
    small = comparison.smallest()
    assert len(small) == round(len(truth) / 3)
    assert truth.loc[small, "diameter_mm"].max() <= truth.drop(small)["diameter_mm"].min()
    assert comparison.estimates(["dice"], cases=small).at["tiny_segmenter", "dice"].images == len(small)


def test_images_are_counted_once_whatever_the_number_of_trainings():
    """Four images of four patients, found, missed, a false alarm, rightly empty; two seeds that differ on the last two."""
    table = pd.DataFrame(
        {
            "dice": [0.8, 0.0, 0.0, np.nan],
            "true_positives": [4, 0, 0, 0],
            "false_positives": [1, 0, 2, 0],
            "false_negatives": [1, 3, 0, 0],
            "true_negatives": [10, 13, 14, 16],
            "resolution": "own",
        },
        index=pd.Index(list("abcd"), name="case"),
    )
    other = table.copy()
    other.loc["d", ["dice", "false_positives"]] = [0.0, 5]
    comparison = SegmenterComparison({"model": []})
    area = table["true_positives"] + table["false_negatives"]
    truth = pd.DataFrame({"patient": list("abcd"), "area": area})
    comparison.__dict__.update(tables={"model": [table, other]}, truth=truth)
    expected = {"with nodule": 2, "missed": 1, "missed by all": 1, "without nodule": 2, "false alarms": 2, "share": 0.75}
    assert comparison.presence().loc["model"].to_dict() == expected
    estimate = comparison.estimates(["dice"]).at["model", "dice"]
    assert estimate.value == pytest.approx(0.8 / 2) and estimate.images == 2
    pooled = comparison.estimates(["dice"], pooled=True).at["model", "dice"]
    assert pooled.value == pytest.approx(8 / (8 + 1 + 4)) and pooled.images == 2


def test_runs_that_cannot_be_compared_are_refused(comparison):
    (one, two), (three, _) = comparison.runs.values()
    for refused in ([one, two, three], [one, one], []):
        with pytest.raises(DataError, match=r"the same seeds, each once|needs one or more runs"):
            SegmenterComparison.of(refused)
    changes = common() | {"split": {"seed": 1}}
    elsewhere = fit_or_load(comparison_configs(["tiny_segmenter"], [0], changes)[0])
    with pytest.raises(DataError, match="different splits"):
        SegmenterComparison.of([one, elsewhere])
