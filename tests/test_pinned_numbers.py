"""What fixed inputs give: a number that moves while code is moved or rewritten is found here.

The values are in `pinned_numbers.json`, by section and entry. Where numbers are meant to change, rewrite the sections (or single
entries) that do, and no others, in a commit that says why:

    python tests/test_pinned_numbers.py --write bootstrap metrics/aurc

`pinned.f` finds a function wherever it is defined. Notes are not compared.
"""

import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pinned import Entries, each, f, moved, plain

STORED = Path(__file__).with_name("pinned_numbers.json")

# Relative; another CPU sums in another order, which training and networks carry on from step to step.
TOLERANCE = dict.fromkeys(("trained", "trained_augmented", "models"), 1e-4)
# Found by iteration, which ends within a tolerance of its own.
LOOSER = {"metrics/fit_temperature": 1e-6, "metrics/fit_platt": 1e-6, "statistics/smallest_gain": 1e-9}


# Inputs, from whole numbers alone: no generator's distribution, and no phantom, decides them


@functools.cache
def people() -> pd.DataFrame:
    """72 images of 30 patients: `label`, probabilities `one` and `two` with ties, 0 and 1 among them, and `patient`."""
    random = np.random.default_rng(20)
    patient = np.sort(np.concatenate([np.arange(30), random.integers(0, 30, 42)]))
    label = (random.integers(0, 5, 30) < 2).astype(int)[patient]
    one, two = (np.clip(38 + lift * label + random.integers(-42, 43, 72), 0, 100) / 100 for lift in (30, 18))
    return pd.DataFrame({"patient": [f"p{number:02d}" for number in patient], "label": label, "one": one, "two": two})


def column(name: str) -> np.ndarray:
    return people()[name].to_numpy()


def blob(height: int, width: int, row: float, col: float, rows: float, cols: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - row) / rows) ** 2 + ((x - col) / cols) ** 2 <= 1


def mask_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction: what can happen to a mask."""
    nodule, moved, empty = blob(40, 48, 18, 20, 9, 13), blob(40, 48, 20, 24, 8, 12), np.zeros((40, 48), bool)
    other, dot = blob(40, 48, 31, 41, 4, 4), empty.copy()
    dot[3, 5] = True
    return {
        "moved": (nodule, moved),
        "same": (nodule, nodule),
        "elsewhere": (nodule, other),
        "two, one found": (nodule | other, moved),
        "one, two called": (nodule, moved | other | dot),
        "missed": (nodule, empty),
        "false alarm": (empty, moved),
        "neither": (empty, empty),
        "everything": (nodule, ~empty),
        "a pixel": (dot, dot | nodule),
        "at the border": (blob(40, 48, 0, 0, 12, 15), blob(40, 48, 2, 0, 12, 13)),
    }


@functools.cache
def frame() -> tuple[np.ndarray, np.ndarray]:
    """A frame with a black border, a bright caption and a dark nodule in grained tissue, uint8 (120, 160), and its mask."""
    gray = np.random.default_rng(21).integers(40, 160, (120, 160))
    mask = blob(120, 160, 62, 85, 18, 26)
    gray[mask] //= 2
    gray[:12], gray[-10:], gray[:, :15], gray[:, -20:] = 0, 0, 0, 0
    gray[4:8, 30:60:2] = 250
    gray[20:26, 140:143] = 255
    return gray.astype(np.uint8), mask


# Sections


def metrics() -> Entries:
    y, p, q = column("label"), column("one"), column("two")
    ones, sure = np.ones(6, int), np.array([0.1, 0.2, 0.2, 0.6, 0.7, 0.9])
    odd = np.array([0.3, np.nan, 0.1, 0.3, 0.9, 0.5]), np.array([0, 1, 0.5, np.nan, 1, 0])
    pairs = mask_pairs()
    truths, founds = zip(*pairs.values(), strict=True)
    counts = {name: np.array([3, 0, 0, 5, 0]) + at for at, name in enumerate(("true_positives", "false_positives"))}
    counts |= {"false_negatives": np.array([2, 0, 4, 0, 0]), "true_negatives": np.array([9, 6, 0, 0, 0])}
    tables = [f.pixel_counts, f.surface_scores, f.lesion_scores, f.segmentation_scores]
    spacings = [None, 0.1, (0.1, 0.2)] * 3 + [None, 0.07]
    return {
        **each(
            "classification_scores",
            (y, p),
            (y, q, 0.37),
            (ones, sure),
            (1 - ones, sure),
            (sure > 0.5, sure),
            (sure > 0.5, 1 - sure),
            (y, np.full(72, 0.5)),
        ),
        "choose_threshold": lambda: [f.choose_threshold(y, p), f.choose_threshold(y, q), f.choose_threshold(sure > 0.3, sure)],
        "logit": lambda: f.logit([0, 1e-9, 0.2, 0.5, 0.99, 1]),
        "reliability_table": lambda: f.reliability_table(y, p, 6).reset_index(drop=True),
        "recalibration": lambda: [
            f.recalibration(truth, f.logit(found), np.ones((len(truth), 1))) for truth, found in ((y == 1, p), (ones == 1, sure))
        ],
        "fit_temperature": lambda: [f.fit_temperature(y, f.logit(p)), f.fit_temperature(y, f.logit(q))],
        "fit_platt": lambda: [f.fit_platt(y, f.logit(p)), f.fit_platt(y, f.logit(q))(np.array([-2, 0, 0.5, 3]))],
        "risk_coverage": lambda: [f.risk_coverage(p * (1 - p), (p >= 0.5) != y), f.risk_coverage(*odd)],
        "aurc": lambda: [f.aurc(p * (1 - p), (p >= 0.5) != y), f.aurc(*odd)],
        "decision_curve": lambda: f.benefit_curve(y, p, column("patient")).drop(columns=["low", "high"]),
        "binarise": lambda: [f.binarise(sure), f.binarise(np.array([[0.2, 0.7], [0.31, 0.3]]), 0.3)],
        "overlap_scores": lambda: f.overlap_scores(**counts),
        **{tell.__name__: lambda tell=tell: {name: tell(*pair) for name, pair in pairs.items()} for tell in tables},
        "segmentation_scores in mm": lambda: f.segmentation_scores(*pairs["moved"], (0.1, 0.2)),
        "surface_scores in mm": lambda: f.surface_scores(*pairs["one, two called"], 0.08, 1.0),
        "surface_distances": lambda: [f.surface_distances(*pairs["moved"]), f.surface_distances(*pairs["at the border"], 0.3)],
        "segmentation_table": lambda: f.segmentation_table(pairs.values(), list(pairs), spacings),
        "compare_with_faulty_002": lambda: f.compare_with_faulty_002(truths, founds),
    }


def statistics() -> Entries:
    y, p, q, who = (column(name) for name in ("label", "one", "two", "patient"))
    dice, other = np.round(p / 2 + 0.4, 2), np.round(q / 2 + 0.35, 2)
    seeds = np.stack([dice - other, dice - other + 0.01, np.roll(dice, 1) - other])
    twice = {"one": np.stack([p, (p + q) / 2]), "two": np.stack([q, np.roll(q, 1)]), "both": np.stack([p, q])}
    first, second = np.array([0.81, 0.84, 0.79, 0.88, 0.83]), np.array([0.80, 0.81, 0.80, 0.84, 0.80])
    return {
        "holm": lambda: f.holm([0.04, 0.001, np.nan, 0.03, 0.03, 0.9]),
        "compare_recipes": lambda: [
            f.compare_recipes(f.auc_influence(y, twice["one"]), f.auc_influence(y, twice["two"]), who, 1),
            f.compare_recipes(f.mean_influence(seeds), f.mean_influence(0 * seeds), who),
        ],
        "proportion_interval": lambda: [f.proportion_interval(*pair) for pair in ((3, 17), (0, 9), (9, 9), (0, 0))],
        "corrected_error": lambda: [f.corrected_error(np.stack([first, second]).T, 50, 22), f.corrected_error(first[:1], 5, 2)],
        "subset_estimate": lambda: [f.subset_estimate(first, 50, 22, 9), f.subset_estimate(first[:1], 50, 22, 9)],
        **each("subset_comparison", (first, second, 50, 22, 9), (first, first, 50, 22, 9)),
        "paired_power": lambda: [f.paired_power(0.01, 0.05, 80, 3, 0.004), f.paired_power(0.02, 0.05, 20)],
        "smallest_gain": lambda: [f.smallest_gain(0.05, 80, 3, 0.004), f.smallest_gain(0.05, 20)],
        "seed_components": lambda: f.seed_components(seeds, who),
    }


def bootstrap() -> Entries:
    """What rests on random draws."""
    y, p, q, who = (column(name) for name in ("label", "one", "two", "patient"))
    dice, other, wrong = np.round(p / 2 + 0.4, 2), np.round(q / 2 + 0.35, 2), ((p >= 0.5) != y).astype(int)
    gap = np.where(np.arange(72) % 9 == 4, np.nan, dice)
    seeds = np.stack([p, (p + q) / 2])
    codes = pd.factorize(who)[0]
    inside, known = (codes % 3 == 0) | (np.arange(72) % 11 == 0), np.arange(72) % 13 > 0
    gains = 100 * np.stack([dice - other, dice - other + 0.01, np.roll(dice, 1) - other])
    cases = pd.Index([f"c{number:02d}" for number in range(72)], name="case")
    groups = pd.DataFrame({"kind": pd.Categorical(np.array(["a", "b", "c"])[codes % 3]), "half": pd.Categorical(inside)}, cases)
    results, named = pd.DataFrame({"label": y, "probability": p}, cases), pd.Series(who, cases)
    powers = functools.partial(f.power_simulation, gains, who, 2.0, (10, 50, 300), (1, 5), 0.4, simulations=300)
    return {
        "patient_estimate": lambda: [f.patient_estimate(dice, who), f.patient_median(gap, who)],
        **each(
            "patient_scores",
            (y, p, who),
            (y, seeds, who, ("auc", "accuracy", "brier"), [0.5, 0.45]),
            (np.ones(72, int), np.ones(72), who, "accuracy"),
        ),
        "patient_scores of a change": lambda: f.patient_scores(y, p, who, ("auc", "accuracy", "brier"), 0.5, less=q),
        "roc_band": lambda: f.roc_band(y, p, who),
        "pr_band": lambda: f.pr_band(y, p, who),
        "benefit_curve": lambda: f.benefit_curve(y, p, who),
        "compare_means": lambda: [f.compare_means(dice, other, who), f.compare_means(gap, other, who)],
        **each("mann_whitney_patients", (dice, wrong, who), (gap, y, who)),
        "randomisation_test": lambda: f.randomisation_test(dice, inside & known, known, codes, 499),
        "power_simulation": lambda: powers(),
        "patients_needed": lambda: f.patients_needed(powers()),
        "error_detection": lambda: f.error_detection(p * (1 - p), np.where(np.isnan(gap), np.nan, wrong), who),
        "detection_table": lambda: f.detection_table({"seeds": f.label_uncertainty(seeds)}, wrong, who),
        "coverage": lambda: f.coverage(f.conformal_sets(q, y, p, 0.2, val_patients=who, by_class=True), y, who),
        "subgroup_table": lambda: [
            f.subgroup_table(pd.Series(values, cases), groups, named) for values in (gap, (p >= 0.45) == y)
        ],
        "subgroup_calibration": lambda: f.subgroup_calibration(results, groups, named),
    }


def preprocess() -> Entries:
    gray, mask = frame()
    colour = np.stack([gray, gray // 2, 255 - gray], 2)

    def through(spec, size=None, image=gray) -> list:
        pipeline = f.build_pipeline(spec, size)
        if pipeline.needs_fit:
            pipeline.mean, pipeline.deviation = 0.31, 0.17
        sample = pipeline(image, mask)
        geometry, soft = sample.geometry, (np.arange(sample.mask.size) % 97 / 96).reshape(sample.mask.shape)
        there = [geometry.to_original(sample.mask), geometry.to_original(soft.astype(np.float32), smooth=True)]
        return [sample.image, sample.mask, geometry, *there]

    small = {"resize": {"size": 64}}
    steps = {
        **{
            name: ["gray", name, small] for name in f.STEPS if name not in ("gray", "resize", "scale", "zscore", "three_channels")
        },
        **{name: ["gray", small, name] for name in ("scale", "zscore", "three_channels")},
        "resize": ["gray", {"resize": {"size": (200, 90)}}],
        "gray": [small],
    }
    return {
        **{f"preset {name}": lambda name=name: through(name, 64) for name in f.PRESETS},
        **{f"step {name}": lambda spec=spec: through(spec) for name, spec in steps.items()},
        "colour": lambda: through("plain", 64, colour),
        "found in the frame": lambda: [f.find_echo_area(gray), f.find_overlays(gray), f.ring_around(mask)],
        "quality": lambda: [f.quality(gray, mask), f.homogeneous_patches(gray)],
        "stages": lambda: [list(stage) for stage in f.build_pipeline("paper_002", (48, 80)).stages(gray, mask)],
        **{
            f"resize {mode}": lambda mode=mode: through(["gray", {"resize": {"size": (64, 96), "mode": mode}}])
            for mode in ("stretch", "letterbox")
        },
        "hash": lambda: {name: f.build_pipeline(name).hash for name in f.PRESETS if not f.build_pipeline(name).needs_fit},
    }


def made_cases(unlabelled: bool) -> pd.DataFrame:
    random = np.random.default_rng(23)
    rows = []
    for patient in range(40):
        label = None if unlabelled and patient % 8 == 0 else int(random.integers(0, 3) == 0)
        rows += [{"case": f"c{patient:02d}-{view}", "image": f"{patient}-{view}.png", "patient": f"p{patient}", "label": label,
                  "dataset": "made"} for view in range(random.integers(1, 6))]  # fmt: skip
    return f.make_cases(rows)


def told(cases: pd.DataFrame) -> list:
    return [f.split_hash(cases), f.split_table(cases)]


def splits() -> Entries:
    cases, partly = made_cases(False), made_cases(True)
    unread = {"check_pixels": False}
    return {
        "split_cases": lambda: [
            told(f.split_cases(cases, **unread)),
            told(f.split_cases(cases, (0.6, 0.2, 0.2), by="patient", seed=1, **unread)),
            told(f.split_cases(cases, (0.5, 0.25, 0.25), by="image", seed=2)),
            told(f.split_cases(partly, (0.7, 0.3), seed=3, **unread)),
            told(f.split_cases(partly, (0.8, 0.2), by="patient", seed=0, **unread)),
        ],
        "repeated_splits": lambda: [told(f.split_cases(cases, (0.6, 0.2, 0.2), seed=4, repeat=r, **unread)) for r in range(3)],
        "kfold_splits": lambda: [
            [told(found) for found in f.kfold_splits(cases, 5, seed=1, **unread)],
            [told(found) for found in f.kfold_splits(partly, 3, by="image", val_ratio=0.2, **unread)],
        ],
        "official_split": lambda: told(f.split_cases(f.split_cases(cases, seed=5, **unread), by="official")),
        "patient_class": lambda: f.patient_class(partly).value_counts().sort_index(),
    }


def real_data() -> Entries:
    """Of people only hashes and counts are kept."""
    root = Path(os.environ.get("THYROID_WORKBOOK_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "ddti" / "labels.csv").is_file():
        pytest.skip("no real data: set THYROID_WORKBOOK_DATA to a folder with ddti/ and tg3k/")
    ddti, tg3k = (functools.cache(lambda name=name: f.load_cases(name, root / name)) for name in ("ddti", "tg3k"))
    return {
        "ddti": lambda: [f.data_fingerprint(ddti()), len(ddti()), ddti()["patient"].nunique(), sorted(ddti().columns)],
        "ddti split": lambda: [told(f.split_cases(ddti(), (0.6, 0.2, 0.2), by="patient", seed=seed)) for seed in (0, 1)],
        "ddti folds": lambda: [told(found) for found in f.kfold_splits(ddti(), 5, check_pixels=False)],
        "tg3k": lambda: [f.data_fingerprint(tg3k()), len(tg3k()), tg3k()["patient"].nunique(), sorted(tg3k().columns)],
        "tg3k videos": lambda: [
            f.recover_videos(tg3k()).sort_index().value_counts(sort=False),
            told(f.split_cases(f.videos_as_patients(tg3k(), f.recover_videos(tg3k())), (0.6, 0.2, 0.2), by="patient", seed=0)),
        ],
        "ddti pixel groups": lambda: f.pixel_groups(ddti()).nunique(),
        "tg3k split": lambda: [
            told(f.split_cases(tg3k(), (0.6, 0.2, 0.2), by="patient", seed=0, check_pixels=False)),
            told(f.split_cases(tg3k(), (0.7, 0.3), by="image", seed=1)),
        ],
    }


def made_images(folder: Path) -> str:
    """26 patients of one to three frames of 72 × 64 pixels with a bright disc, dark and jagged where malignant; a manifest."""
    random, rows = np.random.default_rng(24), ["case,image,mask,patient,label"]
    for patient in range(26):
        malignant = patient % 2
        for view in range(random.integers(1, 4)):
            y, x = np.mgrid[:64, :72]
            row, col, radius = random.integers(24, 40), random.integers(24, 48), random.integers(8, 17)
            jagged = 1 + 0.25 * malignant * np.cos(7 * np.arctan2(y - row, x - col))
            mask = np.hypot(y - row, x - col) <= radius * jagged
            gray = random.integers(50, 110, (64, 72)) + (75 - 30 * malignant) * mask
            name = f"{patient:02d}-{view}"
            cv2.imwrite(str(folder / f"{name}.png"), gray.astype(np.uint8))
            cv2.imwrite(str(folder / f"{name}-mask.png"), 255 * mask.astype(np.uint8))
            rows.append(f"{name},{name}.png,{name}-mask.png,p{patient:02d},{malignant}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(folder)


def trained_run(task: str, augmentation: str = "none") -> list:
    """History, predictions and scores of three epochs of a tiny network; time is left out."""
    model = {"classification": "tiny", "segmentation": "tiny_segmenter", "joint": "tiny_joint"}[task]
    with tempfile.TemporaryDirectory() as folder:
        run = f.fit_or_load(
            f.RunConfig(
                task=task,
                data={"dataset": "manifest", "root": made_images(Path(folder)), "options": {"keep_names": True}},
                split={"by": "patient", "ratios": [0.5, 0.25, 0.25], "seed": 0},
                preprocessing="paper_001" if task == "classification" else "plain",
                size=64,
                augmentation=augmentation,
                model={"name": model},
                loss={"name": "cross_entropy" if task == "classification" else "bce_dice"},
                optimiser={"learning_rate": 0.01},
                training={"epochs": 3, "batch_size": 8, "device": "cpu", "monitor": "loss"},
                seed=0,
            )
        )
        history = run.history.drop(columns=[name for name in run.history if "second" in name])
        predictions = run.predictions.drop(columns="patient")
        maps = [] if task == "classification" else [run.maps("test")[1]]
        return [history, predictions, run.metrics, run.data["fitted"], *maps]


def trained() -> Entries:
    return {task: lambda task=task: trained_run(task) for task in ("classification", "segmentation", "joint")}


def trained_augmented() -> Entries:
    gray, mask = (pixels[::2, ::2].copy() for pixels in frame())
    images, masks = gray[None, None].repeat(3, 0) / np.float32(255), mask[None].repeat(3, 0)

    def changed(name: str) -> tuple:
        from torch import from_numpy

        augmentation = f.build_augmentation(name)
        return augmentation(from_numpy(images), from_numpy(masks), seed=(0, 1, 0))

    runs = {task: lambda task=task: trained_run(task, "default") for task in ("classification", "joint")}
    return runs | {f"augmentation {name}": lambda name=name: changed(name) for name in f.AUGMENTATION_PRESETS}


def phantoms() -> Entries:
    def told_of(patient: int, view: int, **settings) -> list:
        frame = f.simulate_view(patient, view, **settings)
        pixels = [hashlib.sha256(part.tobytes()).hexdigest() for part in (frame.image, frame.nodule)]
        traits, neck = frame.patient.traits, (vars(part) for part in (frame.patient.neck, frame.patient.nodule, frame.view))
        level = [f.tirads_level(traits), f.malignancy_posterior(traits)]
        return [pixels, float(frame.image.mean()), frame.spacing, frame.patient.label, traits, *level, *neck]

    def table() -> list:
        with tempfile.TemporaryDirectory() as folder:
            cases = f.phantom_cases(folder, patients=12, size=64, seed=3, views=(1, 2), malignant_share=0.5)
            split = f.split_cases(cases, (0.6, 0.2, 0.2), by="patient", seed=0)
            return [f.data_fingerprint(cases), told(split), cases.drop(columns=["image", "mask"])]

    return {
        **{f"patient, view {pair}": lambda pair=pair: told_of(*pair, size=96) for pair in ((0, 0), (3, 1))},
        "biased": lambda: told_of(5, 0, size=64, seed=9, scanners=["linear-7"], malignant_share=0.9, calliper_bias=0.5),
        "stages": lambda: f.simulation_stages(size=96),
        "table": table,
        "speckle": lambda: [f.homogeneous_phantom((96, 96)), f.rayleigh_fit(f.homogeneous_phantom((96, 96)))],
    }


# A network without values counts as many of them, and the head of the joint networks sits on an encoder that is asked elsewhere.
COUNTED = {"unet_vgg16", "unet_resnet50", "deeplabv3plus_xception"}
JOINT = ("unet_resnet18", "mobile_deeplab", "segformer")
NARROW = {
    **{name: {"hidden": 64} for name in ("alexnet", "vgg16", "vgg19")},
    "fcn8s": {"widths": (16, 32, 64, 128, 128), "hidden": 64},
    "transunet": {"width": 96, "layers": 2, "heads": 4, "blocks": (1, 1, 1), "widths": (64, 32, 16, 16)},
}


def models() -> Entries:
    import torch

    inputs = torch.from_numpy(np.random.default_rng(28).integers(-200, 201, (2, 3, 96, 96)) / 100).float()

    def asked(build: Callable, name: str) -> list:
        if name in COUNTED or (build == f.build_joint and name not in JOINT):
            with torch.device("meta"):
                return [f.parameter_count(build(name))]
        torch.manual_seed(0)
        network = build(name, **NARROW.get(name, {})).eval()
        with torch.inference_mode():
            return [f.parameter_count(network), network(inputs)]

    registries = {f.build_classifier: f.CLASSIFIERS, f.build_segmenter: f.SEGMENTERS, f.build_joint: f.JOINT_MODELS}
    named = [(build, name) for build, names in registries.items() for name in names if not name.startswith("tiny")]
    return {
        **{f"{build.__name__} {name}": lambda pair=(build, name): asked(*pair) for build, name in named},
        "parameter_counts": lambda: f.count_table().set_axis(["parameters", "mebibytes", "share", "reported_share"], axis=1),
    }


SECTIONS = (metrics, statistics, bootstrap, trained, trained_augmented, splits, real_data, phantoms, preprocess, models)
SECTIONS = {make.__name__: make for make in SECTIONS}


@contextmanager
def apart() -> Iterator[None]:
    """A cache and a ledger of their own, the tiny networks of the tests, one thread."""
    import torch
    from training_project import register_tiny, register_tiny_joint, register_tiny_segmenter

    from thyroid_utils.models.classifiers import CLASSIFIERS
    from thyroid_utils.models.segmenters import SEGMENTERS

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name in ("THYROID_WORKBOOK_CACHE", "THYROID_WORKBOOK_RUNS", "THYROID_REPORT_DIR"):
            patch.setenv(name, str(Path(folder) / name.lower()))
        register_tiny(functools.partial(patch.setitem, CLASSIFIERS))
        register_tiny_segmenter(functools.partial(patch.setitem, SEGMENTERS))
        register_tiny_joint(functools.partial(patch.setitem, SEGMENTERS))
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_are_those_that_were_written_down(section):
    stored, differences = json.loads(STORED.read_text(encoding="utf-8"))[section], []
    with apart():
        entries = SECTIONS[section]()
        if stored.keys() != entries.keys():
            differences.append(f"{section}: {sorted(stored.keys() ^ entries.keys())} on one side only")
        for name in stored.keys() & entries.keys():
            place = f"{section}/{name}"
            tolerance = LOOSER.get(place, TOLERANCE.get(section, 1e-12))
            try:
                differences += moved(stored[name], plain(entries[name]()), tolerance, place)
            except Exception as error:
                differences.append(f"{place}: {type(error).__name__}: {error}")
    assert not differences, f"{len(differences)} moved:\n" + "\n".join(sorted(differences)[:40])


def write(chosen: list[str]) -> None:
    """Rewrite these sections, or single entries; what is named and no longer there is dropped."""
    content = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    for name in chosen:
        section, _, entry = name.partition("/")
        with apart():
            entries = SECTIONS[section]()
            kept = {one: old for one, old in content.get(section, {}).items() if entry not in ("", one)}
            content[section] = kept | {one: plain(make()) for one, make in entries.items() if entry in ("", one)}
    ordered = {section: content[section] for section in SECTIONS if section in content}
    lines = [
        f"{json.dumps(section)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in sorted(rows.items()))
        + "\n}"
        for section, rows in ordered.items()
    ]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"] or not sys.argv[2:]:
        sys.exit(f"usage: python {sys.argv[0]} --write SECTION[/ENTRY] ...; sections: {', '.join(SECTIONS)}")
    write(sys.argv[2:])
