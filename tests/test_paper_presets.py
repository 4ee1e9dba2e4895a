"""The papers' parameter files on phantoms laid out as each file asks for its data: each one's main notebook, made small."""

import json
import shutil
from pathlib import Path

import cv2
import pandas as pd
import pytest

from thyroid_utils.common import paths
from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom import phantom_cases
from thyroid_utils.workbook.cli import main

SMALL = ["SEEDS=[0]", "EPOCHS=1", "SIZE=32", "BATCH_SIZE=8", "WEIGHTS=none", "THREADS=1"]
# Parameter file → the layout of its data, the notebook run, what makes it small beside `SMALL`.
PRESETS = {
    "paper_dual_stage": (
        "manifest",
        "10",
        ["10.MODELS=[resnet18]", "10.LAYERS={resnet18: layer3}", "10.SEGMENTER=unet", "SEGMENTER_OPTIONS={widths: [8, 16]}",
         "10.JOINT=unet_resnet18", "SEGMENTER_SIZE=32", "SEGMENTER_EPOCHS=1", "SEGMENTER_WEIGHTS=none", "JOINT_WEIGHTS=none"],
    ),
    "paper_resnet18_gradcam": (
        "folders", "06", ["SUBSETS=2", "06.LAYERS={resnet18: layer3}", "OTHER_METHODS=[layer_cam]", "SANITY_IMAGES=4"]
    ),
    "paper_unet_tnscui": (
        "tnscui", "04", ["04.MODEL_OPTIONS={unet: {valid: true, batch_norm: false, classes: 2, widths: [4, 8]}}"]
    ),
    "paper_mobile_deeplab": (
        "manifest", "08", ["MODEL_OPTIONS={mobile_deeplab: {width: 16}}", "08.TABLES=[aspp]", "SIMULATIONS=20",
                           "PATIENTS_GRID=[10, 100]", "SEEDS_GRID=[1, 3]"]
    ),
    "paper_residual_unet": (
        "tg3k", "04", ["04.MODELS=[residual_unet]", "04.MODEL_OPTIONS={residual_unet: {widths: [4, 8, 16]}}"]
    ),
}  # fmt: skip


def as_manifest(cases: pd.DataFrame, root: Path) -> None:
    """Column `image` and what else is known, paths relative to the CSV."""
    listed = cases.reset_index()[["case", "image", "mask", "label", "patient", "spacing_mm"]]
    for kind in ("image", "mask"):
        (root / kind).mkdir()
        listed[kind] = [shutil.copy(path, root / kind / f"{row:04d}.png") for row, path in enumerate(listed[kind])]
        listed[kind] = [str(Path(path).relative_to(root)) for path in listed[kind]]
    listed.to_csv(root / "manifest.csv", index=False)


def as_folders(cases: pd.DataFrame, root: Path) -> None:
    """Images sorted into benign/ and malignant/, masks beside them."""
    for row, case in enumerate(cases.itertuples()):
        folder = root / ("malignant" if case.label else "benign")
        folder.mkdir(exist_ok=True)
        shutil.copy(case.image, folder / f"{row:04d}.png")
        shutil.copy(case.mask, folder / f"{row:04d}_mask.png")


def as_tnscui(cases: pd.DataFrame, root: Path) -> None:
    """image/, mask/ and a CSV with ID and CATE."""
    for kind in ("image", "mask"):
        (root / kind).mkdir()
        for row, path in enumerate(cases[kind]):
            shutil.copy(path, root / kind / f"{row}.PNG")
    table = pd.DataFrame({"ID": [f"{row}.PNG" for row in range(len(cases))], "CATE": cases["label"]})
    table.to_csv(root / "train.csv", index=False)


def as_tg3k(cases: pd.DataFrame, root: Path) -> None:
    """Numbered frames of videos, each a patient's first view and slightly brighter copies of it, with masks."""
    number = 0
    for case in cases.drop_duplicates("patient").itertuples():
        image, mask = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in (case.image, case.mask))
        for gain in (1.0, 1.02, 1.04):
            for kind, pixels in (("image", cv2.convertScaleAbs(image, alpha=gain)), ("mask", mask)):
                write_png(root / f"thyroid-{kind}" / f"{number:04d}.png", pixels)
            number += 1


LAYOUTS = {"manifest": as_manifest, "folders": as_folders, "tnscui": as_tnscui, "tg3k": as_tg3k}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with phantoms in every layout; runs and caches go there too."""
    root = tmp_path_factory.mktemp("presets")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS"):
            patch.setenv(f"THYROID_WORKBOOK_{name}", str(root / name.lower()))
        cases = phantom_cases(root / "phantoms", patients=16, size=64, views=(1, 1), malignant_share=0.5)
        for name, lay_out in LAYOUTS.items():
            (root / name).mkdir()
            lay_out(cases, root / name)
        yield root


@pytest.mark.parametrize("name", PRESETS)
def test_a_papers_file_runs_from_end_to_end(name, workplace):
    layout, notebook, settings = PRESETS[name]
    (stem,) = [path.stem for path in paths.notebooks_dir().glob(f"{notebook}_*.ipynb")]
    out = workplace / name
    arguments = ["run", str(paths.params_dir() / f"{name}.yaml"), "--data-root", str(workplace / layout), "--out", str(out)]
    given = [part for setting in [*SMALL, *settings] for part in ("--set", setting)]
    assert main([*arguments, "--only", notebook, *given]) == 0
    assert json.loads((out / "run.json").read_text())["notebooks"][stem]["status"] == "finished"
    assert json.loads((out / "metrics.json").read_text())[stem]
