"""Random changes of an image and its mask together, by `torchvision.transforms.v2`.

Masks are resampled by the nearest pixel and stay boolean. The changes work on any scale of gray levels: black is the image's
own minimum, and brightness and noise are given as shares of its range, so that scaled and z-scored images are treated alike.

`default` has no vertical flip: depth has a meaning in ultrasound. Sound comes from above, shadows and enhancement lie below
what casts them, and an upside-down image shows what no scanner can.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torchvision import tv_tensors
from torchvision.transforms import v2

from thyroid_utils.common import paths
from thyroid_utils.common.cache import file_hashes
from thyroid_utils.common.errors import DataError, cache_errors, nearest
from thyroid_utils.common.files import write_text
from thyroid_utils.common.progress import Progress
from thyroid_utils.data.images import read_gray, read_mask, write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess.pipeline import for_each_case


class Gain(v2.Transform):
    """Another gain and dynamic range: image → contrast · image + brightness · range, both drawn evenly."""

    def __init__(self, brightness: float, contrast: float):
        super().__init__()
        self.brightness, self.contrast = brightness, contrast

    def make_params(self, flat_inputs: list) -> dict:
        draw = torch.rand(2) * 2 - 1
        return {"offset": float(draw[0]) * self.brightness, "factor": 1 + float(draw[1]) * self.contrast}

    def transform(self, inpt: Any, params: dict) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return tv_tensors.wrap(inpt * params["factor"] + params["offset"] * inpt.max(), like=inpt)


class Noise(v2.Transform):
    """Normal noise, one field for all channels: added (share of the range) or, as speckle is, multiplied."""

    def __init__(self, sigma: float, multiply: bool):
        super().__init__()
        self.sigma, self.multiply = sigma, multiply

    def transform(self, inpt: Any, params: dict) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        field = self.sigma * torch.randn(inpt.shape[-2:])
        changed = inpt * (1 + field) if self.multiply else inpt + field * inpt.max()
        return tv_tensors.wrap(changed, like=inpt)


def _affine(degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0) -> v2.Transform:
    """Rotation by up to ±degrees, shift by up to ±translate of the side, size by up to ±scale, in one resampling."""
    return v2.RandomAffine(degrees, (translate, translate), (1 - scale, 1 + scale), interpolation=v2.InterpolationMode.BILINEAR)


# name → (builder, {parameter: (default, lowest, highest)})
AUGMENTATIONS: dict[str, tuple[Callable[..., v2.Transform], dict[str, tuple[float, float, float]]]] = {
    "horizontal_flip": (lambda p: v2.RandomHorizontalFlip(p), {"p": (0.5, 0, 1)}),
    "vertical_flip": (lambda p: v2.RandomVerticalFlip(p), {"p": (0.5, 0, 1)}),
    "affine": (_affine, {"degrees": (0.0, 0, 180), "translate": (0.0, 0, 1), "scale": (0.0, 0, 0.9)}),
    "gain": (lambda brightness, contrast: Gain(brightness, contrast), {"brightness": (0.1, 0, 1), "contrast": (0.2, 0, 1)}),
    "speckle": (lambda sigma: Noise(sigma, multiply=True), {"sigma": (0.1, 0, 1)}),
    "noise": (lambda sigma: Noise(sigma, multiply=False), {"sigma": (0.03, 0, 1)}),
}

AUGMENTATION_PRESETS: dict[str, tuple[tuple[str | dict[str, dict[str, float]], ...], str]] = {
    "none": ((), "The image as it is: papers 000 and 004 state no augmentation."),
    "paper_001": (("horizontal_flip", {"affine": {"degrees": 15}}), "Flip and rotation; axis and angle are ours."),
    "paper_002": (
        ({"affine": {"degrees": 15, "translate": 0.1}}, {"noise": {"sigma": 0.03}}),
        "Rotate, translate, add noise; amounts are ours. The paper stores one copy of each image before it splits.",
    ),
    "paper_003": (
        ("horizontal_flip", "vertical_flip", {"affine": {"degrees": 5}}),
        "Horizontal and vertical mirror, rotation by 5°. The paper makes four images of one before it splits.",
    ),
    "default": (
        (
            "horizontal_flip",
            {"affine": {"degrees": 8, "translate": 0.05, "scale": 0.1}},
            {"gain": {"brightness": 0.05, "contrast": 0.15}},
            {"speckle": {"sigma": 0.08}},
        ),
        "What another hand, patient or gain setting could have shown; no vertical flip, because depth has a meaning.",
    ),
    "strong": (
        (
            "horizontal_flip",
            {"affine": {"degrees": 15, "translate": 0.1, "scale": 0.2}},
            {"gain": {"brightness": 0.05, "contrast": 0.2}},
            {"speckle": {"sigma": 0.08}},
        ),
        "As default, and about twice as far, for small sets and many epochs; chosen on validation images of DDTI.",
    ),
}


@dataclass(frozen=True)
class Augmentation:
    """A list of random changes. Made by `build_augmentation`; `steps` is the list with every parameter filled in."""

    name: str
    steps: tuple[tuple[str, dict[str, float]], ...]
    note: str
    _transform: Callable

    @property
    def hash(self) -> str:
        """SHA-256 over the steps and their parameters."""
        return hashlib.sha256(json.dumps(self.steps, sort_keys=True).encode()).hexdigest()

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None = None, seed: int | Sequence[int] = 0
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Change an image and its mask by the same draw.

        Args:
            image: float32 (channels, height, width) or (height, width), any scale.
            mask: bool (height, width), or None.
            seed: decides the draw; the same seed and image give the same result, in any thread order and worker. Several
                numbers (seed, epoch, position) may be given. The state of torch's own generator is left as it was.

        Returns:
            image and mask of the same shapes and types; the image stays in the range that it had.
        """
        if not self.steps:
            return image.copy(), None if mask is None else mask.copy()
        floor = float(image.min())
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32) - np.float32(floor))
        top = float(pixels.max())
        inputs = [tv_tensors.Image(pixels if image.ndim == 3 else pixels[None])]
        if mask is not None:
            inputs.append(tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8))[None]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1)))
            changed = self._transform(*inputs)
        changed = changed if mask is not None else [changed]
        result = (changed[0].clamp(0, top).numpy() + np.float32(floor)).reshape(image.shape)
        return result, None if mask is None else changed[1].numpy()[0].astype(bool)


def build_augmentation(spec: str | Sequence[str | Mapping[str, Mapping[str, float] | None]] | None) -> Augmentation:
    """The augmentation that a parameter names.

    Args:
        spec: a name in `AUGMENTATION_PRESETS`, None for "none", or a list of names and `{name: {parameter: value}}` out of
            `AUGMENTATIONS`, for example `["horizontal_flip", {"affine": {"degrees": 5}}]`.

    Raises:
        DataError: an unknown name or parameter (the nearest valid one is given), or a value out of range.
    """
    name, note = "custom", ""
    if spec is None:
        spec = "none"
    if isinstance(spec, str):
        if spec not in AUGMENTATION_PRESETS:
            raise DataError(f"augmentation {spec!r} is no preset; {nearest(spec, AUGMENTATION_PRESETS)}")
        name = spec
        spec, note = AUGMENTATION_PRESETS[spec]
    steps = tuple(_parsed(entry) for entry in spec)
    transforms = [AUGMENTATIONS[step][0](**parameters) for step, parameters in steps]
    return Augmentation(name, steps, note, v2.Compose(transforms) if transforms else v2.Identity())


def _parsed(entry: str | Mapping[str, Mapping[str, float] | None]) -> tuple[str, dict[str, float]]:
    entry = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise DataError(f"augmentation must be a name or {{name: {{parameter: value}}}}; found {entry!r}")
    name, given = next(iter(entry.items()))
    if name not in AUGMENTATIONS:
        raise DataError(f"augmentation {name!r} is unknown; {nearest(name, AUGMENTATIONS)}")
    allowed = AUGMENTATIONS[name][1]
    parameters = {parameter: default for parameter, (default, _, _) in allowed.items()}
    for parameter, value in (given or {}).items():
        if parameter not in allowed:
            raise DataError(f"augmentation {name}: no parameter {parameter!r}; {nearest(parameter, allowed)}")
        _, low, high = allowed[parameter]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise DataError(f"augmentation {name}: {parameter} must be a number from {low:g} to {high:g}; found {value!r}")
        parameters[parameter] = float(value)
    return name, parameters


def augmented_copies(
    cases: pd.DataFrame,
    spec: str | Sequence | None,
    copies: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The case table with augmented copies of every image, written as PNG: what papers 002 and 003 do before they split.

    Args:
        cases: case table.
        spec: as for `build_augmentation`.
        copies: copies of each image.
        seed: decides every copy; independent of the order of the rows and the number of workers.
        folder: where the files go; None takes one in the cache named by the content, and uses it again when it is complete.
        progress: called with (images done, images in all).

    Returns:
        the originals and, behind them, the copies: rows `CASE+1`, ... with the original's patient, label and other columns.
        `source_case` is the original's id (its own, for an original), `copy` the number of the copy (0 for an original), and
        `split` is empty.

    Raises:
        DataError: fewer than one copy, a folder with other files in it, an image or a mask that cannot be read, or a folder that
            cannot be written.
    """
    if copies < 1:
        raise DataError(f"augmented_copies: copies must be at least 1; found {copies}")
    augmentation = build_augmentation(spec)
    files = [*cases["image"], *cases["mask"].dropna()]
    hashes = file_hashes(files)
    content = [
        [case, hashes[row["image"]], None if pd.isna(row["mask"]) else hashes[row["mask"]]] for case, row in cases.iterrows()
    ]
    key = hashlib.sha256(json.dumps([sorted(content, key=str), augmentation.hash, copies, seed]).encode()).hexdigest()[:32]
    target = paths.cache_dir() / "augmented" / key if folder is None else Path(folder)
    with cache_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with cache_errors(target.parent), FileLock(target.parent / f".{target.name}.lock"):
        complete = target / "complete.txt"
        if target.exists() and any(target.iterdir()) and not complete.is_file():
            raise DataError(f"{target}: holds other files; augmented copies need an empty or a new folder: name another")
        if not (complete.is_file() and complete.read_text() == key):
            _write_copies(target, cases, augmentation, copies, seed, progress)
            write_text(complete, key)
    originals = cases.reset_index().assign(source_case=cases.index.to_numpy(), copy=0)
    tables = [originals]
    for number in range(1, copies + 1):
        table = originals.assign(copy=number)
        stems = [f"{_stem(case)}-{number}" for case in cases.index]
        table["image"] = [str(target / f"{stem}.png") for stem in stems]
        table["mask"] = [
            pd.NA if pd.isna(mask) else str(target / f"{stem}-mask.png") for stem, mask in zip(stems, cases["mask"], strict=True)
        ]
        table["case"] = table["case"] + f"+{number}"
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    whole["split"] = pd.NA
    return make_cases(whole)


def _stem(case: str) -> str:
    """A file name for a case id, which may hold slashes."""
    return hashlib.sha256(case.encode()).hexdigest()[:16]


def _write_copies(
    target: Path, cases: pd.DataFrame, augmentation: Augmentation, copies: int, seed: int, progress: Progress | None
) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))

    def work(case: pd.Series) -> None:
        image = read_gray(case["image"])
        mask = None if pd.isna(case["mask"]) else read_mask(case["mask"], shape=image.shape)
        own = int(_stem(case.name), 16)
        for number in range(1, copies + 1):
            changed, changed_mask = augmentation(image.astype(np.float32), mask, seed=(seed, own, number))
            stem = temporary / f"{_stem(case.name)}-{number}"
            write_png(stem.with_name(f"{stem.name}.png"), np.round(changed).astype(np.uint8))
            if changed_mask is not None:
                write_png(stem.with_name(f"{stem.name}-mask.png"), changed_mask)

    try:
        # One thread: torch's generator, which the transforms draw from, is shared by all threads of a process.
        for_each_case(work, cases, 1, progress)
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
