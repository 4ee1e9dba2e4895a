"""The study of leaks: what each changes and what stays, points against the honest run, memory alone, papers beside them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_pictures import put
from training_project import one_cache, own_runs, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.config import LEAKS, ConfigError, RunConfig, SplitConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.data.splits import assert_disjoint
from thyroid_utils.data.table import make_cases
from thyroid_utils.plots import leakage_study as plots
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.studies import leakage_study as study
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.training.engine import run_all
from thyroid_utils.training.leaks import leaked
from thyroid_utils.training.ledger import identity

SIDES = {"train": range(12), "val": range(12, 16), "test": range(16, 20)}


def table(images: int = 3, **columns) -> pd.DataFrame:
    """Twenty patients, every second malignant, of so many images each; the last four are tested, the four before validate."""
    rows = [
        {"case": f"{number:02d}-{view}", "image": f"{number}-{view}.png", "patient": f"p{number:02d}", "dataset": "own",
         "label": number % 2, "split": side, "split_by": "patient", **{name: of(view) for name, of in columns.items()}}
        for side, numbers in SIDES.items() for number in numbers for view in range(images)
    ]  # fmt: skip
    return make_cases(rows)


def plan(kind: str, share: float = 1.0, **split) -> SplitConfig:
    return SplitConfig(leak={"kind": kind, "share": share}, **split)


def side(cases: pd.DataFrame, name: str) -> set[str]:
    return set(cases.index[cases["split"] == name])


@pytest.mark.parametrize("kind", ["image", "frames", "validation", "preprocessing"])
def test_a_leak_changes_what_training_has_seen_and_nothing_else(kind):
    cases = table()
    honest, found = leaked(cases, plan("none")), leaked(cases, plan(kind))
    assert_disjoint(honest, check_pixels=False)
    assert_disjoint(found, check_pixels=False, allow_leaky=True)
    with pytest.raises(DataError, match="or to leak"):
        assert_disjoint(found, check_pixels=False)
    assert side(found, "test") == side(honest, "test") and len(side(honest, "test")) == 8, "two of three images a patient"
    assert side(honest, "train") == side(cases, "train"), "the honest run gives nothing up"
    for name in ("test", "train"):
        assert found.loc[found["split"] == name, "label"].value_counts().to_dict() == {
            label: len(side(honest, name)) // 2 for label in (0, 1)
        }
    new = side(found, "train") - side(honest, "train")
    if kind in ("image", "frames"):
        assert new == (side(cases, "test") | side(cases, "val")) - side(honest, "test") - side(honest, "val") and len(new) == 8
    else:
        assert not new
    again = {case.removesuffix("+val") for case in side(found, "val")}
    assert again == side(honest, "test" if kind == "validation" else "val")


def test_a_larger_share_meets_more_patients_and_keeps_those_it_met():
    cases, met = table(), []
    for share in (0.25, 0.5, 1.0):
        found = leaked(cases, plan("image", share))
        new = found[found["split"].eq("train") & ~cases["split"].reindex(found.index).eq("train")]
        met.append(set(new["patient"]))
        assert len(met[-1] & set(cases.loc[cases["split"] == "test", "patient"])) == 4 * share
    assert met[0] < met[1] < met[2]
    assert side(leaked(cases, plan("image", seed=1)), "test") != side(found, "test"), "the seed of the split decides"


def test_of_videos_every_second_frame_is_scored_in_the_order_of_their_numbers():
    found = leaked(table(10, frame=lambda view: view), plan("frames"))
    assert side(found, "test") == {f"{number}-{view}" for number in SIDES["test"] for view in range(0, 10, 2)}


@pytest.mark.parametrize(("kind", "patients"), [("augmented", {"p17"}), ("copies", {"p17+1"})])
def test_copies_are_the_same_for_a_seed_and_stand_in_training(tmp_path, kind, patients):
    noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32), np.uint8)
    for number in range(20):
        put(tmp_path, f"{number}.png", pixels=noise[number])
    cases = table(1).assign(image=[str(tmp_path / f"{number}.png") for number in range(20)])
    found, again, other = (leaked(cases, plan(kind, seed=seed)) for seed in (0, 0, 1))
    copies = [one.loc[one["split"].eq("train") & one.index.str.endswith("+1")] for one in (found, again, other)]
    assert len(copies[0]) == 8 and len(side(found, "train")) == 12 and "16-0" in side(found, "test")
    assert set(copies[0].loc[["17-0+1"], "patient"]) == patients and copies[0]["image"].tolist() == copies[1]["image"].tolist()
    read = [study.read_gray(one.at["17-0+1", "image"]) for one in (copies[0], copies[2])]
    assert (read[0] != noise[17]).any() and (read[0] != read[1]).any()
    alike = np.corrcoef(read[0].ravel(), noise[17].ravel())[0, 1]
    assert (alike > 0.5) == (kind == "copies"), "a near-copy is moved by a hair"


@pytest.mark.parametrize(
    ("cases", "split", "told"),
    [
        (table(1), {"kind": "image"}, "none of 4 test patients has a second image"),
        (table().drop([f"{n:02d}-{v}" for n in range(2, 12) for v in range(3)]), {"kind": "image"}, "too few of their classes"),
    ],
)
def test_a_leak_that_cannot_be_is_refused_with_the_reason(cases, split, told):
    with pytest.raises(DataError, match=told):
        leaked(cases, SplitConfig(leak=split))


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"leak": {"kind": "validation", "share": 0.5}}, "share must be 1 with kind validation"),
        ({"leak": {"kind": "image", "share": 0.0}}, "split.leak.share"),
        ({"leak": {"kind": "image"}, "by": "image"}, "leak must be None with by image"),
    ],
)
def test_settings_that_make_no_leak_are_refused(split, told):
    with pytest.raises(ConfigError, match=told):
        RunConfig(split=split)


def common(config: RunConfig, **data) -> dict:
    """The settings of a notebook, of a config."""
    values = config.model_dump(exclude={"model", "seed"})
    values["data"]["options"] |= {"patients": 24, "views": [2, 2], **data}
    return values | {"split": {"ratios": (0.5, 0.2, 0.3)}}


def test_a_ladder_from_plan_to_figures():
    settings = common(tiny_config(training__epochs=2, preprocessing="paper_000", size=32))
    planned = study.ladder_plan(settings, "tiny", [0], ["image", "copies", "validation", "preprocessing"], [0.5, 0.51])
    assert planned.left_out == {LEAKS["frames"]: "no videos here"} and planned.met["by image (share 0.5)"] == 4
    assert planned.room == {
        "by image": "12 of 24", LEAKS["copies"]: "12 of 24", LEAKS["validation"]: "0 of 24", LEAKS["preprocessing"]: "0 of 24",
        "by image (share 0.5)": "6 of 24",
    }  # fmt: skip
    runs = run_all(planned.configs)
    assert [run.data["leaky"] for run in runs] == [False] + [True] * 5
    assert runs[0].data["fitted"] != runs[4].data["fitted"], "µ and σ of all images"
    losses = [run.history["train_loss"].tolist() for run in (runs[0], runs[3])]
    assert losses[0] == losses[1], "validation on test is the same training"
    with pytest.raises(DataError, match="leak on purpose"):
        ClassifierComparison.of(runs)
    (ladder,) = study.ladders_of([runs, []])
    assert ladder.models[0] == "by patient" and len(ladder.rungs) == 4 and list(ladder.doses(planned).index) == [0.5, 1.0]
    row = ladder.worth.iloc[0]
    aucs = [ladder.runs[rung][0].metrics["test"]["auc"] for rung in ("by image", "by patient")]
    assert row["difference"].difference == pytest.approx(aucs[0] - aucs[1])
    shown = ladder.table(planned)
    assert shown["replaced"].tolist() == ["", "12 of 24", "12 of 24", "0 of 24", "0 of 24"]
    assert ladder.told().startswith(f"AUC is {aucs[1]:.2f} by patient and")
    case, seen = study.met_case(ladder, planned)
    assert list(seen) == ["by patient", "by image", LEAKS["copies"]] and seen["by patient"][0].name == case
    assert seen["by image"][0]["patient"] == seen["by patient"][0]["patient"] and seen["by image"][0].name != case
    followed, answers = ladder.followed(case, seen), [answer for _, answer in seen.values()]
    assert list(followed.index) == list(seen) and followed["training 1"].tolist() == pytest.approx(answers)
    assert len(plots.ladders([ladder]).axes) == 1 and plots.met(seen) is not None
    for percent, how in ((25, "between what was trained"), (50, "trained")):
        (place,) = plots.doses([ladder], [planned], percent).axes
        half = ladder.doses(planned)[0.5].difference * percent / 50
        told = f"{percent} % met ({how}):\n{aucs[1]:.3f} and {100 * half:+.1f} points are {aucs[1] + half:.3f}".replace("-", "−")
        assert place.get_title("left") == told, "half way to half of the patients half of the points"
    memory = study.nearest_neighbours(settings, planned)
    assert memory.at["by patient", "same patient"].value == 0 < memory.at["by image", "same patient"].value


def test_runs_that_leak_have_names_of_their_own_and_others_keep_theirs():
    config = tiny_config()
    assert "leak" not in identity(config)["split"]
    leaks = [tiny_config(split={"leak": {"kind": kind}}) for kind in ("none", "image")]
    assert len({str(identity(one)) for one in [config, *leaks]}) == 3 and "leak: by image" in leaks[1].label


def test_frames_are_told_from_images_before_the_pool_is_put_aside(monkeypatch):
    """Of ten frames each the honest run's validation and test patients keep five."""
    settings = common(tiny_config(), patients=14)
    views = study.load_cases("phantom", **settings["data"]["options"])
    frames = pd.concat([views.assign(frame=number).set_axis(views.index + f"-{number}") for number in range(5)])
    monkeypatch.setattr("thyroid_utils.training.data.load_cases", lambda *_, **__: frames)
    monkeypatch.setattr(study, "load_cases", lambda *_, **__: frames)
    settings["split"] |= {"ratios": (0.4, 0.2, 0.4)}
    planned = study.ladder_plan(settings, "tiny", [0], ["image"])
    assert list(planned.room) == [LEAKS["frames"]] and "are frames of a video" in planned.left_out["by image"]


@pytest.mark.parametrize(
    ("frames", "met"),
    [([0, 5, 9], "b"), ([0, 9, 5], "c"), (["1_1", "1_2", "1_3"], "a"), (None, "a")],
    ids=["the second", "the third", "no numbers", "no frames"],
)
def test_what_training_has_met_of_an_image_is_its_nearest_frame_or_its_copy(frames, met):
    train = pd.DataFrame({"patient": ["p", "p", "p", "q"]}, index=["a", "b", "c", "d"])
    train = train if frames is None else train.assign(frame=pd.array([*map(str, frames), "4"], dtype="string"))
    scored = pd.Series({"patient": "p", "frame": "4"}, name="x")
    assert study.nearest_met(train, scored).name == met
    assert study.nearest_met(train.rename({"d": "x+1"}), scored).name == "x+1"
    assert study.nearest_met(train, pd.Series({"patient": "r", "frame": "4"}, name="y")) is None


def test_half_a_ladder_is_left_out_with_the_reason_and_no_half_is_an_error(monkeypatch):
    settings = common(segmentation_config(), patients=14)
    unmasked = study.load_cases("phantom", **settings["data"]["options"]).assign(mask=pd.NA)
    monkeypatch.setattr(study, "load_cases", lambda *_, **__: unmasked)
    planned = study.ladder_plan(settings, "tiny_segmenter", [0], ["image"])
    assert not planned.configs and "none of 28 cases has a mask" in planned.left_out["every rung"]
    assert study.ladder_plan(settings, "", [0], ["image"]).left_out == {"every rung": "no network was asked for"}
    assert len(study.left_out({"AUC": planned, "Dice": planned})) == 2
    with pytest.raises(DataError, match="no leak can be shown"):
        study.ladders_of([[], []])


def test_a_rung_that_would_shrink_the_test_set_is_refused(monkeypatch):
    def taken(config: RunConfig):
        data = whole(config)
        leaks = config.split.leak is not None and config.split.leak.kind == "image"
        return dataclasses.replace(data, cases=data.cases.drop(sorted(side(data.cases, "test"))[: 2 * leaks]))

    whole = study.split_data
    monkeypatch.setattr(study, "split_data", taken)
    with pytest.raises(DataError, match="by image would be scored on 6 of the 8 images"):
        study.ladder_plan(common(tiny_config()), "tiny", [0], ["image"])


def test_folds_that_put_other_images_aside_know_all_that_they_test():
    ladder, tested = study.SegmenterLadder({"by patient": []}), ["16-1", "17-0"]
    scored = pd.DataFrame({"resolution": "own", **dict.fromkeys(COUNTS, 1)}, index=tested)
    ladder.__dict__.update(_splits=[table(2).drop(case) for case in tested], tables={"by patient": [scored]})
    assert ladder.truth["patient"].to_dict() == {"16-1": "p16", "17-0": "p17"}


def test_papers_lie_between_the_honest_interval_and_the_leakiest_rung_that_is_shown():
    estimates = pd.DataFrame({"auc": [Estimate(*row, 50, 20) for row in ((0.7, 0.6, 0.8), (0.9, 0.8, 0.998), (0.9, 0.8, 1.0))]})
    more = SimpleNamespace(difference=0.2)
    worth = pd.DataFrame({"first": ["image", "copies"], "differs": [True, False], "difference": [more, more]})
    names = ["honest", "image", "copies"]
    ladder = SimpleNamespace(
        tasks=("classification",), reported=("auc",), names={"auc": "AUC"}, models=names, worth=worth,
        estimates=lambda scores: estimates.set_axis(names)[scores],
    )  # fmt: skip
    found = study.papers_within([ladder]).set_index("paper")
    assert found[["no higher", "within", "beyond"]].to_numpy().tolist() == [[0, 0, 1], [0, 1, 0]], "0.9998 and 0.997"
    assert "**1 of 2** lie in the range" in study.papers_told(found)
    for unshown in ({"differs": False}, {"difference": SimpleNamespace(difference=-0.2)}):
        ladder.worth = worth.assign(**unshown)
        assert "No leak is shown" in study.papers_told(study.papers_within([ladder]))


def test_memory_finds_the_same_patient_where_it_can(tmp_path):
    """Two views of a patient differ by one gray level, patients by ten; patients of one class follow each other."""
    rows = []
    for number in range(12):
        for view in range(2):
            name = f"{number}-{view}.png"
            put(tmp_path, name, pixels=np.full((32, 32), 20 + 10 * number + view, np.uint8))
            rows.append({"case": name, "image": str(tmp_path / name), "patient": f"p{number}", "label": int(number >= 6)})
    cases = make_cases(pd.DataFrame(rows).assign(dataset="own"))
    pixels = np.stack([study._small(study.read_gray(path)) for path in cases["image"]]).astype(np.float32)
    alone = [cases.assign(split=["test" if case == one else "train" for case in cases.index]) for one in cases.index]
    found = study._remembered(cases, pixels, alone)
    assert found["same patient"].value == found["auc"].value == 1 and "dice" not in found
    by_patient = [cases.assign(split=np.where(cases["patient"] == one, "test", "train")) for one in cases["patient"].unique()]
    found = study._remembered(cases, pixels, by_patient)
    assert found["same patient"].value == 0 and found["accuracy"].value == pytest.approx(22 / 24), "next to the other class"
    told = study.memory_told(pd.DataFrame([found], index=["by patient"]))
    assert told.startswith("Split by patient, the nearest picture in training shows the same patient or video in 0 % of")
