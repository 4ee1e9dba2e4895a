"""`thyroid-workbook predict` with real runs on files of every kind: what is written, the exit codes, and that nobody is named."""

import base64
import functools
import io
import logging
import os
import re
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from dicom_files import region, write_dicom
from filelock import FileLock
from PIL import Image, PngImagePlugin
from torch import nn
from training_project import (
    one_cache,  # noqa: F401
    register_tiny,
    register_tiny_segmenter,
    segmentation_config,
    tiny_config,
)

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.images import read_mask, write_png
from thyroid_utils.data.overlays import mask_box
from thyroid_utils.inference.findings import Finding
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.training.fit import fit_or_load
from thyroid_utils.workbook import predict, predict_page
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.predict import (
    COLOUR,
    LITTLE_RANGE,
    NOT_SQUARE,
    SCALES_DIFFER,
    anonymous,
    case_images,
    find_sources,
)
from thyroid_utils.workbook.predict_page import BURNED_IN, Pages, picture, showable


def calls_dark(in_channels: int, classes: int) -> nn.Module:
    """Calls nodule what is darker than most on average: a segmenter that finds something without being trained for long."""
    network = nn.Sequential(nn.AvgPool2d(9, 1, 4), nn.Conv2d(in_channels, classes, 1))
    nn.init.constant_(network[1].weight, -20 / in_channels)
    nn.init.constant_(network[1].bias, 20 * 0.2)
    return network


@pytest.fixture(scope="module")
def trained(one_cache, tmp_path_factory):  # noqa: F811
    """Names of a classifier's and a segmenter's run, and some frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("THYROID_REPORT_DIR", str(tmp_path_factory.mktemp("report")))
        register_tiny(functools.partial(patch.setitem, CLASSIFIERS))
        register_tiny_segmenter(functools.partial(patch.setitem, SEGMENTERS))
        patch.setitem(SEGMENTERS, "tiny_segmenter", replace(SEGMENTERS["tiny_segmenter"], build=calls_dark))
        classifier = fit_or_load(tiny_config(training__epochs=1))
        segmenter = fit_or_load(segmentation_config(training__epochs=1, optimiser__learning_rate=1e-6))
        frames = [np.asarray(Image.open(path).convert("L")) for path in Predictor(classifier).cases["image"][:5]]
        yield classifier.name, segmenter.name, frames


@pytest.fixture
def folder(trained, tmp_path):
    """A folder of five PNG files."""
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(trained[2]):
        write_png(tmp_path / f"in/scan{number}.png", frame)
    return tmp_path / "in"


def run(trained, out, *arguments):
    return main(["predict", *map(str, arguments), "--classifier", trained[0][:12], "--segmenter", trained[1], "--out", str(out)])


def table(out):
    return pd.read_csv(out / "findings.csv", keep_default_na=False, index_col="case")


def test_a_folder_becomes_a_table_masks_and_a_page(trained, folder, tmp_path, capsys, look):
    (folder / "scan1.png").write_bytes(b"not at all")
    (folder / "scan5.png").write_bytes((folder / "scan0.png").read_bytes()[:200])
    out, bad = tmp_path / "new" / "out", ["image-0002", "image-0006"]
    assert run(trained, out, folder, "--spacing", "0.5") == 1, "some could not be used"
    assert sorted(entry.name for entry in out.iterdir()) == ["findings.csv", "index.html", "masks", "networks.csv"]
    found = table(out)
    assert list(found.index) == [f"image-000{number}" for number in range(1, 7)]
    assert list(found.index[found["error"] != ""]) == list(found.index[found["mask"] == ""]) == bad
    good = found.drop(index=bad)
    assert good["probability"].astype(float).between(0, 1).all() and len(list((out / "masks").iterdir())) == 4
    masks = {case: read_mask(out / f"masks/{case}.png") for case in good.index}
    assert all(mask.shape == trained[2][0].shape for mask in masks.values()) and any(mask.any() for mask in masks.values())
    for case, row in good.iterrows():
        if masks[case].any():
            assert float(row["area_mm2"]) == pytest.approx(0.25 * float(row["area_px"]), rel=1e-4)
            assert float(row["area_px"]) <= masks[case].sum()
    assert "6 images, 2 not predicted" in capsys.readouterr().out
    page = look(out / "index.html", 390, "dark")
    assert page.evaluate("document.images.length") == 8 and page.is_visible("text=Not predicted.")
    assert page.is_visible("text=For research only, not a medical device.")


def test_a_folder_that_holds_anything_is_refused(trained, folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    for out in (folder, tmp_path / "mine.txt"):
        assert run(trained, out, folder) == 2
        assert "not an empty folder" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 5 and (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 2, "--out cannot be written (No space left on device)"),
    ],
    ids=["interrupted", "disk full"],
)
def test_what_stops_it_is_told_and_leaves_nothing(trained, folder, tmp_path, monkeypatch, capsys, error, code, told):
    def stopped(*arguments, **values):
        raise error

    monkeypatch.setattr(Pages, "close", stopped)
    (tmp_path / "out").mkdir()
    assert run(trained, tmp_path / "out", folder) == code
    assert told in capsys.readouterr().err and [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_wrong_use_is_one_line_that_names_nobody(trained, folder, tmp_path, capsys):
    classifier, segmenter, _ = trained
    (tmp_path / "DOE_JANE").mkdir()
    (tmp_path / "DOE_JANE/letter.txt").write_text("no image")
    for runs, images, options, told in (
        ((classifier, "nothing"), folder, (), "no such run"),
        ((classifier, ""), folder, (), "no such run"),
        ((segmenter, classifier), folder, (), "other way round"),
        ((classifier, segmenter), tmp_path / "DOE_JANE", (), "hold no image"),
        ((classifier, segmenter), tmp_path / "DOE_JANE/none.png", (), "number 1 is no file"),
        ((classifier, segmenter), folder, ("--spacing", "0"), "--spacing"),
        ((classifier, segmenter), folder, ("--spacing", "nan"), "--spacing"),
        ((classifier, segmenter), folder, ("--classifier", classifier), "give each once"),
    ):
        assert run(runs, tmp_path / "out", images, *options) == 2
        shown = capsys.readouterr()
        assert told in shown.err and len(shown.err.splitlines()) == 1 and "DOE" not in shown.err + shown.out
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_a_numbered_row_and_nothing_hangs(trained, folder, tmp_path, monkeypatch):
    (folder / "DOE_gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "DOE_here").symlink_to(folder)
    os.mkfifo(folder / "DOE_pipe.png")
    write_png(folder / "DOE_black.png", np.zeros((64, 64), np.uint8))
    write_png(folder / "scan0_mask.png", trained[2][0] > 50)
    write_png(folder / "alone_mask.png", trained[2][1])
    frame = Image.fromarray(trained[2][0])
    frame.save(folder / "DOE_moves.png", save_all=True, append_images=[frame.rotate(90)])
    monkeypatch.setattr(predict, "MOST_PIXELS", trained[2][0].size)
    write_png(folder / "DOE_large.png", np.pad(trained[2][0], 1))
    assert run(trained, tmp_path / "out", folder) == 1
    errors = table(tmp_path / "out")["error"]
    assert len(errors) == 12 and (errors == "").sum() == 6, "the mask of scan0 is left out, a mask without image is none"
    for told in ("one gray level", "leads nowhere", "not followed", "pixels; crop", "2 frames", "a pipe"):
        assert errors.str.contains(told).sum() == 1
    assert found_in(tmp_path / "out", b"DOE") == []
    key = pd.read_csv(tmp_path / "out-key.csv", index_col="case")["file"]
    assert list(key.index) == list(errors.index) and key["image-0001"] == str(folder / "DOE_black.png")


def test_a_folder_that_may_not_be_listed_and_a_file_that_may_not_be_read_are_rows(tmp_path, monkeypatch):
    """Roots may read all, so that the refusals are played."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    real = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    sources, _ = find_sources([tmp_path])
    assert [(case, why.partition(";")[0]) for case, _, why in sources] == [
        ("image-0001", "may not be read"), ("image-0002", "a folder that cannot be listed (Permission denied)"),
    ]  # fmt: skip


def found_in(out, text):
    return [path.name for path in out.rglob("*") if text in str(path).encode() or (path.is_file() and text in path.read_bytes())]


def test_what_a_killed_call_left_is_cleared_and_nothing_else(trained, folder, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    left = ("masks/image-0009.png", "masks/.image-0010-0123456789ab.png", ".cards-0", "findings.csv", ".unfinished")
    for name in left:
        (out / name).write_text("left")
    for mine in ("masks/mine.png", "notes.txt"):
        (out / mine).write_text("mine")
        assert run(trained, out, folder) == 2 and "not an empty folder" in capsys.readouterr().err
        assert (out / mine).read_text() == "mine" and all((out / name).exists() for name in left)
        (out / mine).unlink()
    with FileLock(out / ".unfinished"):
        assert run(trained, out, folder) == 2 and "another predict" in capsys.readouterr().err
    assert run(trained, out, folder) == 0 and len(list((out / "masks").iterdir())) == 5
    assert sorted(path.name for path in out.iterdir()) == ["findings.csv", "index.html", "masks", "networks.csv"]


def test_a_name_that_no_disk_takes_and_a_key_that_is_there(trained, folder, tmp_path, monkeypatch, capsys):
    assert run(trained, tmp_path / ("x" * 300), folder) == 2
    assert "cannot be written (File name too long)" in capsys.readouterr().err
    (tmp_path / f"{'x' * 60}-key.csv").write_text("mine")
    assert run(trained, tmp_path / ("x" * 250), folder) == 0
    assert (tmp_path / f"{'x' * 60}-key.csv").read_text() == "mine" and (tmp_path / f"{'x' * 60}-key-2.csv").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(trained, ".", folder) == 0 and (tmp_path / "here/findings.csv").is_file() and (tmp_path / "here-key.csv").is_file()
    assert run(trained, tmp_path / "named", folder, "--keep-names") == 0 and not (tmp_path / "named-key.csv").exists()


def test_the_page_begins_with_the_networks_own_scores_and_calls_nothing_by_chance(trained, folder, tmp_path):
    """Of networks trained for an epoch on a few frames."""
    assert run(trained, tmp_path / "out", folder) == 0
    page, own = (tmp_path / "out/index.html").read_text(), pd.read_csv(tmp_path / "out/networks.csv")
    assert list(own["score"]) == ["AUC", "Dice"] and not (own["low"] > 0.5).any()
    before = page[: page.index('<ol class="cards">')]
    assert "AUC of the classifier" in before and f"on its own test images, {own['images'][0]} images of" in before
    assert 'class="percent"' not in page and page.count("No call: the classifier is not shown") == 5
    found = table(tmp_path / "out")
    assert found["warnings"].str.contains("above chance").all()
    assert page.count("Doubtful outline") == found["outline_doubtful"].sum() > 0


def test_several_runs_answer_together_and_the_page_and_the_tables_say_so(trained, folder, tmp_path):
    seeds = [trained[0], fit_or_load(tiny_config(training__epochs=1, seed=1)).name]
    asked = [(folder, "--classifier", seeds[1], "--mirror"), (folder, "--mirror"), (folder,)]
    for at, arguments in enumerate(asked):
        assert run(trained, tmp_path / str(at), *arguments) == 0
    both, single, plain = (table(tmp_path / str(at)) for at in range(3))
    assert list(both["classifiers"]) == [2] * 5 and list(both["segmenters"]) == list(single["classifiers"]) == [1] * 5
    for other in (single, plain):
        assert (np.abs(both["probability"] - other["probability"]) > 0).all() and (both["sd"] != other["sd"]).all()
    assert (single["uncalibrated"] != plain["uncalibrated"]).all(), "mirrored copies"
    own = pd.read_csv(tmp_path / "0/networks.csv")
    assert list(own["run"]) == [*seeds[::-1], trained[1]] and list(own["seed"]) == [1, 0, 0] and own["value"].notna().all()
    page = (tmp_path / "0/index.html").read_text()
    assert "AUC of 2 classifiers" in page and "on their own test images" in page and f"{seeds[1][:8]} and {seeds[0][:8]}" in page
    assert page.count("SD between 2 classifiers") == 5 and page.count("mask between views, Dice") == 5


def test_files_are_found_in_order_and_others_counted(tmp_path):
    for name in ("b/2.PNG", "b/10.jpg", "a.tiff", ".hidden.png", "b/.git/x.png", "note.txt", "DICOMDIR"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    write_dicom(tmp_path / "IM0001", np.zeros((1, 8, 8), np.uint8))
    sources, others = find_sources([tmp_path, tmp_path / "note.txt"])
    assert [(case, path.name) for case, path, _ in sources] == [
        ("image-0001", "IM0001"), ("image-0002", "a.tiff"), ("image-0003", "10.jpg"), ("image-0004", "2.PNG"),
        ("image-0005", "note.txt"),
    ]  # fmt: skip
    assert others == {"file of another kind": 1}
    for name in ("b/=1+1.png", "b/!!.png", "A.png"):
        (tmp_path / name).write_bytes(b"x")
    kept = [case for case, *_ in find_sources([tmp_path], keep_names=True)[0]]
    assert {"a-0003", "A-0001", "1-1-0007"} < set(kept) and len({name.lower() for name in kept}) == 7, "each otherwise"


def test_masks_are_left_out_of_folders_and_never_where_named(tmp_path):
    spot = np.pad(np.full((4, 4), 255, np.uint8), 8)
    picture = np.random.default_rng(0).integers(0, 255, spot.shape, np.uint8)
    for name, pixels in {"1": picture, "nodule_1": picture, "1_lesion_2": picture, "1_roi": spot, "1_mask": picture}.items():
        write_png(tmp_path / f"{name}.png", pixels)
    sources, others = find_sources([tmp_path])
    assert [path.stem for _, path, _ in sources] == ["1", "1_lesion_2", "nodule_1"] and others == {"mask": 2}
    assert len(find_sources([tmp_path / "1.png", tmp_path / "1_mask.png"])[0]) == 2


@pytest.mark.parametrize("name", ["float.tif", "fixed.png", "bit.png"])
def test_a_name_is_taken_out_of_a_message_and_not_out_of_its_words(tmp_path, name):
    told = "floating-point pixels have no fixed range; export it as 8 or 16 bit"
    assert anonymous(ImageError(f"{tmp_path / name}: {told}"), tmp_path / name) == told
    assert anonymous(ImageError(f"{told}: {name}"), tmp_path / name) == f"{told}: the file"


def test_frames_of_a_file_follow_each_other_and_its_end_is_an_error(tmp_path):
    red = np.tile(np.array([200, 0, 0], np.uint8), (16, 16, 1))
    path = write_dicom(tmp_path / "DOE_JANE.dcm", np.stack([0 * red, red, red]), "RGB", more=[(0x28, 0x301, "CS", "YES")])
    path.write_bytes(path.read_bytes()[:-100])
    counted = []
    sources = [("image-0001", path, "")]
    found = list(case_images(sources, 0.5, lambda done, total: counted.append((done, total))))
    assert [(image.case, image.spacing, image.warnings) for image in found] == [
        ("image-0001-frame-0001", 0.5, (BURNED_IN, LITTLE_RANGE)),
        ("image-0001-frame-0002", 0.5, (BURNED_IN, COLOUR)),
        ("image-0001", None, ()),
    ]
    assert "export it again" in str(found[2].image) and "DOE" not in str(found[2].image) and counted == [(1, 1)]


def noted(path, spacing=0.5):
    """Spacing and warnings of a file's only frame."""
    (image,) = case_images([("a", path, "")], spacing, lambda done, total: None)
    assert not isinstance(image.image, ImageError), image.image
    return image.spacing, list(image.warnings)


SMALL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def test_what_a_file_says_of_scale_and_colour_becomes_spacing_and_warnings(tmp_path):
    """12-bit values in 16 bits: 4095 of 65535 is gray level 16 of 255, unless a window or extremes say otherwise."""
    red, twelve = np.tile(np.array([200, 0, 0], np.uint8), (1, 16, 16, 1)), SMALL.astype(np.uint16) * 16
    window = [(0x28, 0x1050, "DS", "2048"), (0x28, 0x1051, "DS", "4096")]
    extremes = [(0x28, 0x106, "US", 0), (0x28, 0x107, "US", 4080)]
    for pixels, kind, options, expected in (
        (SMALL, "MONOCHROME2", {"regions": [region(0.005, 0.005), region(0.01, 0.01)]}, (None, [SCALES_DIFFER])),
        (SMALL, "MONOCHROME2", {"regions": [region(0.005, 0.005), region(0.005, 0.005)]}, ((0.05, 0.05), [])),
        (SMALL, "MONOCHROME2", {"more": [(0x28, 0x34, "IS", "2\\1")]}, (0.5, [NOT_SQUARE])),
        (SMALL, "MONOCHROME2", {"regions": [region(0.005, 0.005, data_type=2)]}, ((0.05, 0.05), [COLOUR])),
        (SMALL, "MONOCHROME2", {"more": [(0x28, 0x14, "US", 1)]}, (0.5, [COLOUR])),
        (red, "RGB", {}, (0.5, [COLOUR])),
        (twelve, "MONOCHROME2", {}, (0.5, [LITTLE_RANGE])),
        (twelve, "MONOCHROME2", {"more": window}, (0.5, [])),
        (twelve, "MONOCHROME2", {"more": extremes}, (0.5, [])),
        (twelve, "MONOCHROME2", {"bits": 12}, (0.5, [])),
        (16 * twelve, "MONOCHROME2", {}, (0.5, [])),
    ):
        assert noted(write_dicom(tmp_path / "a.dcm", pixels, kind, **options)) == expected
    for suffix, values, told in (
        ("png", twelve, [LITTLE_RANGE]),
        ("tiff", 16 * twelve, []),
        ("tiff", SMALL // 16, [LITTLE_RANGE]),
    ):
        Image.fromarray(values[0]).save(tmp_path / f"a.{suffix}")
        assert noted(tmp_path / f"a.{suffix}")[1] == told


SECRETS = {
    "name": "Zwicky^Hedwig", "id": "PID7731905", "birth": "18990704", "date": "18991123", "accession": "ACC5550199",
    "institution": "Spital am Quellhof", "private": "PRIVAT8842", "other": "OTHER4471", "file": "zwicky_hedwig_1899",
}  # fmt: skip


def planted():
    """Elements that name a patient, in the public groups and in a private one."""
    s = SECRETS
    return [
        (0x08, 0x20, "DA", s["date"]), (0x08, 0x50, "SH", s["accession"]), (0x08, 0x80, "LO", s["institution"]),
        (0x08, 0x90, "PN", s["name"]), (0x08, 0x1030, "LO", s["other"]), (0x09, 0x10, "LO", s["private"]),
        (0x09, 0x1001, "LO", s["private"] + s["name"]), (0x10, 0x10, "PN", s["name"]), (0x10, 0x20, "LO", s["id"]),
        (0x10, 0x30, "DA", s["birth"]), (0x10, 0x4000, "LT", s["name"]), (0x20, 0x10, "SH", s["id"]),
        (0x20, 0x4000, "LT", s["name"] + s["accession"]), (0x7FDF, 0x10, "LO", s["private"]),
    ]  # fmt: skip


def phi_folder(root, frame):
    """Files of every kind whose names, tags and text chunks name a patient, good and bad ones."""
    root = root / SECRETS["file"] / SECRETS["id"]
    root.mkdir(parents=True)
    said = " ".join(SECRETS.values())
    picture, chunks = Image.fromarray(frame), PngImagePlugin.PngInfo()
    chunks.add_text("Description", said)
    exif = Image.Exif()
    exif[270] = exif[315] = said
    picture.save(root / f"{SECRETS['name']}.png", pnginfo=chunks)
    picture.save(root / f"{SECRETS['accession']}.jpg", exif=exif, comment=said)
    picture.save(root / f"{SECRETS['birth']}.tif", exif=exif)
    (root / f"{SECRETS['file']}_text.png").write_text(said)
    (root / f"{SECRETS['file']}_cut.png").write_bytes((root / f"{SECRETS['name']}.png").read_bytes()[:120])
    frames, regions = np.stack([frame, 255 - frame]), [region(0.01, 0.01)]
    write_dicom(root / f"{SECRETS['file']}.dcm", frames, more=planted(), regions=regions)
    write_dicom(root / SECRETS["name"], frames[:1], "MONOCHROME1", more=planted())
    bad = {(0x28, 0x10): None, (0x28, 0x1050): b"\x28\x00\x50\x10DS\x0e\x00" + SECRETS["name"].ljust(14).encode()}
    write_dicom(root / f"{SECRETS['id']}-a.dcm", frames, more=planted(), change=bad)
    whole = (root / f"{SECRETS['file']}.dcm").read_bytes()
    (root / f"{SECRETS['id']}-b.dcm").write_bytes(whole[:400])
    (root / f"{SECRETS['id']}-c.dcm").write_bytes(whole[:-900])
    (root / f"{SECRETS['id']}-d.dcm").write_text(said)
    return root


def everything_in(out):
    """Names and bytes of all that was written, pictures inside a page taken out of their base64."""
    content = b""
    for path in out.rglob("*"):
        content += str(path.relative_to(out)).encode() + (path.read_bytes() if path.is_file() else b"")
    pictures = re.findall(rb"base64,([A-Za-z0-9+/=]+)", content)
    assert pictures or not (out / "index.html").is_file()
    return content + b"".join(base64.b64decode(picture) for picture in pictures)


def found_secrets(content):
    """Secrets in any spelling: capitals, 16 bits a character, dashes, points, carets and blanks or not, family name alone."""
    plain = re.sub(rb"[\0-./ ^_]", b"", content).lower()
    parts = [(name, part) for name, secret in SECRETS.items() for part in (secret, secret.split("^")[0])]
    return [name for name, part in parts if re.sub(r"[-./ ^_]", "", part).lower().encode() in plain]


def test_nothing_of_a_patient_is_written_or_told(trained, tmp_path, capfd, caplog, recwarn):
    root, out = phi_folder(tmp_path / "in", trained[2][0]), tmp_path / "out"
    assert found_secrets(b"".join(path.read_bytes() for path in root.iterdir())), "the search finds what was planted"
    with caplog.at_level(logging.DEBUG):
        assert run(trained, out, tmp_path / "in") == 1
    found, told = table(out), capfd.readouterr()
    assert (found["error"] == "").sum() >= 3 and (found["error"] != "").sum() >= 5
    printed = told.out + told.err + caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert found_secrets(printed.encode()) == []
    assert found_secrets(everything_in(out)) == []
    assert str(tmp_path).encode() not in everything_in(out)


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["source"].partition(",")[2]))).convert("RGB")).astype(int)


def letters(frame, scale, place, colour=255):
    """Write a name into the frame; the pixels that it changes."""
    before = frame.copy()
    cv2.putText(frame, "DOE JANE 1961", place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1 if scale < 0.8 else 2, cv2.LINE_AA)
    written = (frame != before).reshape(*frame.shape[:2], -1).any(axis=2)
    assert written.sum() > 300
    return written


def both_pictures(frame, seen):
    """Gray levels (height, width) of the picture with the outline and of the one with the heat map, without either of them."""
    nothing = np.zeros(frame.shape[:2])
    return [decoded(picture(frame, nothing > 0, seen, heat)).max(axis=2) for heat in (None, nothing)]


@pytest.mark.parametrize(("scale", "size"), [(0.4, (360, 480)), (1.5, (600, 700))])
@pytest.mark.parametrize("colour", [255, (255, 60, 255)], ids=["white", "coloured"])
def test_letters_inside_the_echo_image_are_not_to_be_read(scale, size, colour):
    rng = np.random.default_rng(0)
    frame = np.zeros(size, np.uint8)
    noise = cv2.GaussianBlur(rng.normal(size=(size[0] - 60, size[1] - 60)), (0, 0), 1.5)
    frame[30:-30, 30:-30] = np.clip(90 + 20 * noise / noise.std(), 30, 150)
    frame = frame if isinstance(colour, int) else np.repeat(frame[..., None], 3, axis=2)
    written = letters(frame, scale, (60, size[0] // 2), colour)
    rows, columns = np.flatnonzero(written.any(1)), np.flatnonzero(written.any(0))
    block = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    seen = showable(frame)
    assert not seen[block].any(), "black letters on tissue could be read as well as white ones"
    box = mask_box(seen)
    for shown in both_pictures(frame, seen):
        whole = np.zeros(size, int)
        whole[box.top : box.bottom, box.left : box.right] = shown
        assert whole[block].max() <= 25, "what JPEG leaves of the block's edge"
        assert np.median(whole[40 : rows[0] - 20, 40:-40]) > 60, "the tissue is still shown"


def test_a_frame_that_may_not_be_shown_leaves_its_mask_and_heat():
    """Of a page of text nothing is shown; what stands around the echo image is cut off."""
    page = np.zeros((480, 640), np.uint8)
    for line in range(1, 10):
        letters(page, 0.8, (10, 45 * line))
    assert showable(page) is showable(255 - page) is None
    assert all(shown.shape == page.shape and shown.max() == 0 for shown in both_pictures(page, None))
    frame, mask = np.zeros((240, 320), np.uint8), np.zeros((240, 320), bool)
    frame[60:220, 40:280] = np.random.default_rng(0).integers(40, 200, (160, 240))
    frame[10:20, 10:120:3] = 255  # letters in the border
    mask[100:140, 100:160] = True
    shown = decoded(picture(frame, mask, showable(frame)))
    assert np.abs(np.subtract(shown.shape[:2], (160, 240))).max() <= 8
    yellow = (shown[..., 0] > 180) & (shown[..., 2] < 90) & (shown[..., 1] > 150)
    assert 150 < yellow.sum() < 450, "the outline of 40 × 60"
    hidden = picture(frame, mask, None)
    assert decoded(hidden)[:90].max() == 0 < decoded(hidden)[110:130, 110:150].mean()
    assert hidden["title"] == "Nodule; frame not shown"
    heat = decoded(picture(frame, mask, None, mask.astype(float)))
    assert heat[110:130, 110:150].mean() > 40 and heat[:90].max() <= 5
    assert picture(frame, mask, showable(frame), 0.0 * mask)["title"] == "Grad-CAM: blank"


def test_a_file_that_says_it_has_letters_is_predicted_and_not_shown(trained, tmp_path):
    """Its pictures are those of a black frame with the same mask."""
    frame, shown = trained[2][0], {}
    for said in ("NO", "YES"):
        path = write_dicom(tmp_path / f"{said}.dcm", frame[None], more=[(0x28, 0x301, "CS", said)])
        assert run(trained, tmp_path / said, path) == 0
        page = (tmp_path / said / "index.html").read_text()
        shown[said] = re.findall(r'src="(data:image/jpeg[^"]+)"', page)
        assert (BURNED_IN in page) == (said == "YES") and len(shown[said]) == 2
    mask = read_mask(tmp_path / "YES/masks/image-0001.png")
    assert mask.any() and not mask.all()
    assert shown["YES"][0] == picture(0 * frame, mask, None, doubtful=True)["source"]
    assert shown["NO"][0] == picture(frame, mask, showable(frame), doubtful=True)["source"] != shown["YES"][0]


def test_pages_of_cards_lead_to_each_other_and_escape(tmp_path, monkeypatch):
    monkeypatch.setattr(predict_page, "CARDS_A_PAGE", 2)
    pages = Pages(tmp_path)
    for number in range(5):
        pages.add(Finding(f"image-{number}", error="<b>bad</b>"))
    pages.close(counts={"images": 5}, scores={}, alpha=0.1, notes=(), networks={}, duration=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "page-2.html", "page-3.html"], "no parts are left"
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert [text.count('<li class="card failed"') for text in texts] == [2, 2, 1]
    assert 'href="page-2.html"' in texts[0] and 'href="index.html"' in texts[2] and "<b>bad" not in texts[0]
