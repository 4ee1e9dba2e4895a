"""Steps, pipelines, presets, the cut to the nodule, the way back to the frame; and the store of preprocessed images."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from made_pictures import stored
from scipy.ndimage import map_coordinates
from training_project import one_cache, own_runs, segmentation_config, tiny_config  # noqa: F401

from thyroid_utils.common.config import ConfigError
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import file_hash
from thyroid_utils.data.images import read_gray, read_image, read_mask, write_png
from thyroid_utils.data.overlays import Box
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.geometry import Geometry
from thyroid_utils.preprocess.pipeline import PRESETS, Pipeline, build_pipeline
from thyroid_utils.preprocess.steps import NoduleCrop, Sample, resample
from thyroid_utils.preprocess.store import preprocessed
from thyroid_utils.training.fit import fit_or_load

PRESET_SIZES = {"paper_000": 224, "paper_001": 224, "paper_002": 512, "paper_003": 512, "paper_004": 256, "plain": 256,
                "nodule": 256}  # fmt: skip
# First letters of the steps, in the papers' order
PRESET_STEPS = {"paper_000": "grszt", "paper_001": "grszt", "paper_002": "gcregrs", "paper_003": "grgcs", "paper_004": "gsr",
                "plain": "gcrs", "nodule": "gcnrs"}  # fmt: skip


def frame(seed: int = 0, shape: tuple[int, int] = (180, 240)) -> np.ndarray:
    """Speckle in a black border, with a line of text in the border."""
    rng = np.random.default_rng(seed)
    gray = np.zeros(shape, np.uint8)
    speckle = 90 + 30 * cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 1.2) / 0.25
    gray[20:160, 30:200] = np.clip(speckle, 8, 255)[20:160, 30:200].astype(np.uint8)
    cv2.putText(gray, "DR65", (203, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1)
    return gray


def nodule(shape: tuple[int, int] = (180, 240)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (120, 90), (34, 22), 20, 0, 360, 1, -1)
    return mask.astype(bool)


def run(*steps, image, mask=None):
    """The image after the given steps, without the resize that every pipeline must have."""
    sample = build_pipeline([*steps, {"resize": {"size": image.shape[:2]}}]).stages(image, mask)
    return sample[-2][1]


# geometry


def test_what_was_cropped_and_resized_maps_back_by_hand_and_as_scipy_says():
    geometry = Geometry(frame=(4, 5), shape=(4, 5)).cropped(Box(1, 3, 2, 5))
    original = geometry.to_original(np.array([[True, False, True], [False, True, False]]))
    assert original.astype(int).tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    with pytest.raises(DataError, match="predict at that size"):
        geometry.to_original(np.zeros((3, 3), bool))
    halved = Geometry(frame=(2, 4), shape=(2, 4)).resized((1, 2)).padded(1, 0, (3, 2))
    assert halved.to_original(np.array([[9, 9], [1, 2], [9, 9]])).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    smooth = Geometry(frame=(2, 6), shape=(2, 6)).cropped(Box(0, 2, 1, 5)).resized((1, 2))  # two frame pixels a map pixel
    original = smooth.to_original(np.array([[0.0, 1.0]], np.float32), smooth=True)
    assert original.tolist() == [[0, 0, 0.25, 0.75, 1, 0]] * 2  # beyond the outer centres the map goes on as it is
    rng = np.random.default_rng(0)
    sample = build_pipeline(["crop_echo", {"resize": {"size": 48, "mode": "letterbox"}}, "scale"])(frame(), nodule())
    geometry, values = sample.geometry, rng.random((48, 48), np.float32)
    rows, columns = (
        np.clip((np.arange(geometry.frame[axis]) + 0.5 - geometry.offset[axis]) / geometry.scale[axis] - 0.5, 0, 47)
        for axis in (0, 1)
    )
    expected = map_coordinates(values.astype(float), np.meshgrid(rows, columns, indexing="ij"), order=1)
    found, covered = geometry.to_original(values, smooth=True), geometry.to_original(np.ones((48, 48), bool))
    assert 0 < covered.mean() < 1
    np.testing.assert_allclose(found[covered], expected[covered], atol=1e-6)
    assert not found[~covered].any()


def test_resampling_by_hand():
    assert resample(np.array([[0, 4], [8, 4]], np.float32), (1, 1)).tolist() == [[4.0]]
    assert resample(np.array([[0, 8]], np.float32), (1, 4)).tolist() == [[0.0, 2.0, 6.0, 8.0]]
    assert resample(np.array([[0, 4, 8, 4]], np.float32), (2, 2)).tolist() == [[2.0, 6.0], [2.0, 6.0]]


# steps


def test_small_steps_by_hand_a_fans_corners_cleared_and_marks_painted_over():
    image = np.array([[0, 255], [255, 0]], np.uint8).repeat(8, 0).repeat(8, 1)
    small = {"resize": {"size": 16}}
    scaled = build_pipeline([small, "scale"])(image).image
    assert scaled.dtype == np.float32 and set(np.unique(scaled)) == {0.0, 1.0}
    scores = build_pipeline([small, "zscore", "three_channels"])(image).image
    assert scores.shape == (3, 16, 16) and set(np.unique(scores)) == {-1.0, 1.0}
    assert (build_pipeline([small, "zscore"])(np.full((16, 16), 9, np.uint8)).image == 0).all()
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert (build_pipeline([small])(red).image == 76).all()  # 0.299 · 255
    gray = np.zeros((200, 240), np.uint8)
    cv2.ellipse(gray, (120, 10), (170, 170), 90, -35, 35, 120, -1)
    gray[gray > 0] += np.random.default_rng(0).integers(0, 60, int((gray > 0).sum())).astype(np.uint8)
    cv2.putText(gray, "L12", (30, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    kept = run({"crop_echo": {"blank": False}}, image=gray)
    blanked = run("crop_echo", image=gray)
    assert kept.shape == blanked.shape and (kept[:50, :45] == 255).any()
    assert not (blanked[:50, :45] == 255).any()
    clean = frame(3)
    drawn = clean.copy()
    for x, y in [(80, 60), (150, 110)]:
        cv2.line(drawn, (x - 5, y), (x + 5, y), 255, 1)
        cv2.line(drawn, (x, y - 5), (x, y + 5), 255, 1)
    painted = run("remove_overlays", image=drawn)
    was = drawn != clean
    error = np.abs(painted.astype(int) - clean)[was].mean()
    assert error < 0.3 * np.abs(drawn.astype(int) - clean)[was].mean()
    far = ~cv2.dilate(was.astype(np.uint8), np.ones((31, 31))).astype(bool)
    far[:40], far[140:], far[:, :52], far[:, 178:] = False, False, False, False  # the margin, where scanners put their marks
    assert (painted == clean)[far].all()
    assert clean[:60, 203:].max() > 200 and painted[:60, 203:].max() < 60, "text in the border is blanked"
    part = clean[30:150, 40:190]
    assert (run("remove_overlays", image=part) == part).all(), "nothing is drawn there"


# pipelines


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_makes_the_papers_size(name, tmp_path):
    pipeline_cases = stored(tmp_path, [frame(0), frame(1)], split="train")
    pipeline = build_pipeline(name).fit(pipeline_cases)
    sample = pipeline(frame(), nodule())
    side = PRESET_SIZES[name]
    assert sample.image.shape == (pipeline.channels, side, side) and sample.image.dtype == np.float32
    assert sample.mask.shape == (side, side) and sample.mask.dtype == bool
    assert sample.geometry.to_original(sample.mask).shape == frame().shape
    assert len(PRESETS[name].note) > 60 and "".join(step.name[0] for step in pipeline.steps) == PRESET_STEPS[name]
    stages = pipeline.stages(frame(), nodule())
    assert [name for name, _, _ in stages] == ["input", *(step.name for step in pipeline.steps)]
    assert (np.moveaxis(np.atleast_3d(stages[-1][1]), 2, 0) == sample.image).all()
    small = build_pipeline(name, size=[32, 40]).fit(pipeline_cases)
    assert small(frame(), nodule()).image.shape == (pipeline.channels, 32, 40)


def test_training_statistics_are_those_of_the_training_images_only(tmp_path, monkeypatch):
    """In any order, and free the second time, until an image is another one."""
    images = [frame(0), frame(1), np.full((180, 240), 250, np.uint8)]
    cases, calls = stored(tmp_path, images, split=["train", "train", "test"]), []
    fits = []
    for cache, table in (("a", cases), ("b", cases.iloc[::-1]), ("a", cases)):
        monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / cache))
        spec = [{"resize": {"size": (180, 240)}}, {"zscore": {"by": "train"}}]
        fits.append(build_pipeline(spec).fit(table, progress=lambda done, total: calls.append(done)))
    assert len({(fit.mean, fit.deviation, fit.hash) for fit in fits}) == 1 and calls == [1, 2, 1, 2]
    pixels = np.concatenate([images[0].ravel(), images[1].ravel()]).astype(float)
    assert (fits[0].mean, fits[0].deviation) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-9)
    assert fits[0](images[0]).image[0] == pytest.approx((images[0] - pixels.mean()) / pixels.std(), abs=1e-5)
    write_png(tmp_path / "0000.png", frame(99))
    assert build_pipeline(spec).fit(cases).mean != fits[0].mean


def test_a_pipeline_says_that_it_needs_training_images_and_its_hash_what_decides_the_result(tmp_path):
    pipeline = build_pipeline("paper_000")
    with pytest.raises(DataError, match=r"not fitted; call fit\(cases\)"):
        pipeline(frame())
    with pytest.raises(DataError, match="not fitted"):
        _ = pipeline.hash
    with pytest.raises(DataError, match="no row has split = train"):
        pipeline.fit(stored(tmp_path, [frame()], split=None))
    with pytest.raises(DataError, match="no contrast"):
        pipeline.fit(stored(tmp_path, [np.zeros((30, 30), np.uint8)], split="train"))
    plain = build_pipeline("plain")
    # Neither the name counts, nor what is a default.
    assert plain.hash == build_pipeline([{"crop_echo": {"margin": 3}}, {"resize": {"size": [256, 256]}}, "scale"]).hash
    small = {"resize": {"size": 256, "mode": "letterbox"}}
    others = [["crop_echo", small, "scale"], [{"crop_echo": {"margin": 4}}, "resize", "scale"], ["crop_echo", "resize"]]
    hashes = {plain.hash, build_pipeline("plain", size=128).hash, *(build_pipeline(spec).hash for spec in others)}
    for seed in (0, 1):
        hashes.add(build_pipeline("paper_000").fit(stored(tmp_path / str(seed), [frame(seed)], split="train")).hash)
    assert len(hashes) == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("paper_00", "did you mean paper_00"),
        ([], "add resize"),
        (["claeh", "resize"], "step 'claeh' is unknown; did you mean clahe"),
        ([{"srad": {"iterations": 3}}, "resize"], "step 'srad' is unknown; it was removed; train with gaussian"),
        ([{"clahe": {"clip": 2}}, "resize"], "no parameter 'clip'; did you mean clip_limit"),
        ([{"clahe": {"clip_limit": -1}}, "resize"], "step clahe: clip_limit: .* greater than or equal to 0.1; found -1"),
        ([{"clahe": {"tiles": 2.5}}, "resize"], "tiles: .* valid integer; found 2.5"),
        ([{"gaussian": {"sigma": float("nan")}}, "resize"], "sigma: .* finite number; found nan"),
        ([{"crop_echo": {"blank": 1}}, "resize"], "blank: .* valid boolean; found 1"),
        ([{"resize": {"size": 0}}], "size: .* greater than or equal to 8; found 0"),
        ([{"resize": 224}], "resize: parameters: .*; found 224"),
        ([{"equalise": {"bins": 3}}, "resize"], "it has no parameters"),
        ([{"a": {}, "b": {}}], "must be a name or"),
        (["resize", "nodule_crop", "scale"], "nodule_crop behind resize"),
        (["resize", "scale", "clahe"], "clahe needs gray levels 0 to 255; put it in front of scale"),
        (["resize", "zscore", "scale"], "scale behind zscore"),
        (["resize", "scale", "scale"], "scale occurs 2 times"),
        (["resize", "clahe", "gray"], "clahe needs a gray image; put gray in front"),
    ],
)
def test_a_wrong_list_names_what_is_wrong_and_what_is_near(spec, message):
    with pytest.raises(DataError, match=message) as caught:
        build_pipeline(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [frame().astype(float), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8), np.uint8)])
def test_wrong_arrays_are_refused(image):
    with pytest.raises(DataError, match="expected a uint8 image"):
        build_pipeline("plain")(image)


# the cut to the nodule

CROPPED = ["gray", {"nodule_crop": {"margin": 0.25, "minimum": 8}}, {"resize": {"size": 64}}, "scale", "three_channels"]


def frame_and_mask(shape: tuple[int, int], rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels that tell the place, and a mask of one rectangle."""
    frame = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1])).astype(np.uint8)
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return frame, mask


def crop(frame: np.ndarray, mask: np.ndarray, **options):
    return NoduleCrop(**options)(Sample(frame, mask, Geometry.of(frame)))


@pytest.mark.parametrize(
    ("rows", "columns", "margin", "minimum", "top", "left", "side"),
    [
        ((20, 28), (30, 42), 0.25, 8, 15, 27, 18),  # a box of 8×12: side 12·(1 + 2·0.25), centred on (24, 36)
        ((0, 8), (70, 80), 0.5, 8, 0, 60, 20),  # at the border it is moved inside
        ((30, 31), (40, 41), 0.2, 16, 22, 32, 16),  # a tiny nodule gets the smallest side
    ],
)
def test_crops_by_hand(rows, columns, margin, minimum, top, left, side):
    frame, mask = frame_and_mask((60, 80), slice(*rows), slice(*columns))
    sample = crop(frame, mask, margin=margin, minimum=minimum)
    inside = slice(top, top + side), slice(left, left + side)
    np.testing.assert_array_equal(sample.image, frame[inside])
    np.testing.assert_array_equal(sample.mask, mask[inside])
    assert sample.geometry.offset == (top, left) and sample.geometry.scale == (1, 1)


def test_a_crop_finds_back_to_the_frame_and_without_a_nodule_is_refused_or_the_frame():
    """A frame 20 high and a nodule 24 wide: a square of 24, two black rows above and below; enlarged twice and brought back."""
    frame, mask = frame_and_mask((20, 60), slice(5, 15), slice(10, 34))
    sample = crop(frame + 1, mask, margin=0, minimum=8)
    assert sample.image.shape == (24, 24) and not sample.image[:2].any() and not sample.image[22:].any()
    np.testing.assert_array_equal(sample.image[2:22], frame[:, 10:34] + 1)
    large = build_pipeline(["gray", {"nodule_crop": {"margin": 0, "minimum": 8}}, "resize", "scale"], 48)(frame, mask)
    for found in (sample, large):
        np.testing.assert_array_equal(found.geometry.to_original(found.mask), mask)
    assert large.geometry.to_original(np.ones((48, 48), bool)).sum() == 20 * 24
    frame, mask = frame_and_mask((40, 50), slice(0, 0), slice(0, 0))
    with pytest.raises(DataError, match="nodule_crop: there is no mask"):
        build_pipeline(CROPPED)(frame)
    with pytest.raises(DataError, match="the mask is empty"):
        crop(frame, mask)
    sample = crop(frame, mask, empty="frame")
    np.testing.assert_array_equal(sample.image, frame)
    assert sample.geometry.offset == (0, 0)


def test_a_classifier_on_crops_takes_masks_of_any_origin_and_a_segmenter_is_shown_none():
    run = fit_or_load(tiny_config(training__epochs=1, preprocessing=CROPPED))
    predictor, told = Predictor(run), run.predictions["log_odds"]
    cases, seen = predictor.cases.loc[told.index], lambda *pair: predictor.pipeline(*pair).image
    frames, masks = [read_gray(image) for image in cases["image"]], [read_mask(mask) for mask in cases["mask"]]
    inputs = np.stack(list(map(seen, frames, masks)))
    np.testing.assert_array_equal(inputs, predictor.inputs(told.index))
    np.testing.assert_allclose(predictor.log_odds(inputs), told, rtol=0, atol=1e-4)
    elsewhere = [np.roll(mask, 6, axis=1) for mask in masks]
    assert np.abs(predictor.log_odds(np.stack(list(map(seen, frames, elsewhere)))) - told).max() > 1e-3
    with pytest.raises(ValueError, match="there is no mask"):
        predictor.pipeline(frames[0])
    # Fitting looks at the crops: other masks of the same images give other numbers.
    fitted = [*CROPPED[:-1], {"zscore": {"by": "train"}}]
    whole = predictor.cases
    swapped = whole.assign(mask=np.roll(whole["mask"].to_numpy(), 1))
    means = [build_pipeline(fitted, 32).fit(table).mean for table in (whole, swapped)]
    samples = [build_pipeline(CROPPED[:-1], 32).load(case).image for _, case in whole[whole["split"].eq("train")].iterrows()]
    assert means[0] == pytest.approx(np.mean(samples), rel=1e-5) and means[1] != means[0]
    two = cases.iloc[:2].assign(mask=[cases["mask"].iloc[0], None])
    with pytest.raises(DataError, match=f"case {two.index[1]}: step nodule_crop: there is no mask"):
        preprocessed(two, build_pipeline(CROPPED))
    with pytest.raises(ConfigError, match="nodule_crop with task segmentation"):
        fit_or_load(segmentation_config(preprocessing=CROPPED))


SPEC = ["gray", {"resize": {"size": 32}}, "scale"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "preprocessed"


def table(folder: Path, count: int = 5, masks: bool = True) -> pd.DataFrame:
    """Noise of 40×50 pixels; the second image has no mask."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50), np.uint8) for _ in range(count)]
    columns = {}
    if masks:
        outlines = [str(write_png(folder / f"{number}-mask.png", image > 127)) for number, image in enumerate(images)]
        columns["mask"] = [outlines[0], None, *outlines[2:]]
    return stored(folder, images, split="train", **columns)


def test_rows_are_what_the_pipeline_makes_and_equal_channels_stored_once(tmp_path):
    cases, pipeline = table(tmp_path), build_pipeline(SPEC)
    made = preprocessed(cases, pipeline)
    assert made.images.shape == (5, 1, 32, 32) and made.images.dtype == np.float32 and isinstance(made.images, np.memmap)
    assert made.masks.shape == (5, 32, 32) and made.masks.dtype == bool
    for position, (_, case) in enumerate(cases.iterrows()):
        sample = pipeline.load(case)
        assert (made.images[position] == sample.image).all() and made.geometries[position] == sample.geometry
        assert not made.masks[position].any() if sample.mask is None else (made.masks[position] == sample.mask).all()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0
    made = preprocessed(table(tmp_path, masks=False), build_pipeline([*SPEC, "three_channels"]))
    assert made.images.shape == (5, 3, 32, 32) and (made.images[:, 0] == made.images[:, 2]).all()
    assert (made.folder / "images.npy").stat().st_size < 5 * 32 * 32 * 4 * 1.1
    assert made.masks is None and not (made.folder / "masks.npy").exists()


def test_name_and_bytes_follow_the_content_alone_and_a_second_use_computes_nothing(tmp_path, own_cache, monkeypatch):
    pipeline = build_pipeline(SPEC)
    here, there = table(tmp_path / "a"), table(tmp_path / "b")
    assert preprocessed(here, pipeline).folder == preprocessed(there, pipeline).folder
    names = {preprocessed(here, pipeline).folder, preprocessed(here, build_pipeline(SPEC, size=16)).folder}
    write_png(tmp_path / "a" / "0002.png", np.zeros((40, 50), np.uint8))
    names.add(preprocessed(here, pipeline).folder)
    write_png(tmp_path / "a" / "3-mask.png", np.ones((40, 50), bool))
    changed = preprocessed(here, pipeline)
    assert len(names | {changed.folder}) == 4 and changed.images[2].max() == 0 and changed.masks[3].all()
    assert preprocessed(here.iloc[::-1], pipeline).folder != changed.folder, "rows belong to positions"
    cases, pipeline, hashes = table(tmp_path, 9), build_pipeline(SPEC), set()
    for workers in (1, 4):
        shutil.rmtree(own_cache, ignore_errors=True)
        made = preprocessed(cases, pipeline, workers=workers)
        hashes.add((made.folder.name, file_hash(made.folder / "images.npy"), file_hash(made.folder / "masks.npy")))
    assert len(hashes) == 1
    calls = []
    monkeypatch.setattr(Pipeline, "load", lambda *_: calls.append(1))
    again = preprocessed(cases, pipeline, progress=lambda *_: calls.append(2))
    assert not calls and again.folder == made.folder and (again.images == made.images).all()


def test_an_empty_table_an_unreadable_image_and_several_sizes_are_refused(tmp_path, own_cache):
    with pytest.raises(DataError, match="the case table is empty"):
        preprocessed(table(tmp_path).iloc[:0], build_pipeline(SPEC))
    cases = table(tmp_path)
    (tmp_path / "0003.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"case made/0003: .*<html>"):
        preprocessed(cases, build_pipeline(SPEC))
    assert not [path for path in own_cache.iterdir() if path.is_dir()]
    # Speckle that fills the frame, and one with a black border that is cut off behind the resize.
    cases = table(tmp_path)
    image = np.zeros((40, 50), np.uint8)
    image[10:30, 10:40] = read_image(cases["image"].iloc[0])[10:30, 10:40]
    write_png(tmp_path / "0002.png", image)
    with pytest.raises(DataError, match=r"the first image to .*; give resize a fixed size"):
        preprocessed(cases, build_pipeline([{"resize": {"size": (40, 50)}}, "crop_echo"]))
