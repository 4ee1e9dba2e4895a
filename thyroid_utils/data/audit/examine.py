"""One image and its mask, decoded once and looked at in every way the audit needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.audit.masks import MaskProblem, mask_problems
from thyroid_utils.data.audit.pixels import pixel_hash
from thyroid_utils.data.audit.similar import HASH_BITS, SIDE, perceptual_hash, thumbnail
from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.overlays import echo_mask, find_overlays, mask_box

VIEWS = 2  # whole frame; echo image alone, which finds the same picture in another frame


@dataclass
class Findings:
    """What one row of the case table shows. Everything but the mask is left at its default where the image cannot be read."""

    width: int | None = None
    height: int | None = None
    pixel_hash: str | None = None
    text_regions: int | None = None
    callipers: int | None = None
    problem: str | None = None
    mask_share: float | None = None
    mask_problems: list[MaskProblem] = field(default_factory=list)
    thumbs: np.ndarray = field(default_factory=lambda: np.zeros((VIEWS, SIDE * SIDE), np.float32))
    hashes: np.ndarray = field(default_factory=lambda: np.ones((VIEWS, HASH_BITS), np.int8))


def examine(image: str, mask: str | None) -> Findings:
    """Read an image and its mask.

    Args:
        image: path of the image file.
        mask: path of the mask file, or None.

    Returns:
        Findings. A file that cannot be read is a finding, not an error: `problem` for the image (one line, without the folder),
        "unreadable" among `mask_problems` for the mask.
    """
    found = Findings()
    shape = None
    try:
        gray = read_gray(image)
    except ImageError as error:
        found.problem = str(error).replace(str(Path(image)), Path(image).name)
    else:
        shape = gray.shape
        _examine_image(gray, found)
    if mask is not None:
        _examine_mask(mask, shape, found)
    return found


def _examine_image(gray: np.ndarray, found: Findings) -> None:
    found.height, found.width = gray.shape
    found.pixel_hash = pixel_hash(gray)
    echo = echo_mask(gray)
    for view, picture in enumerate((gray, mask_box(echo).crop(gray))):
        found.thumbs[view] = thumbnail(picture)
        found.hashes[view] = perceptual_hash(found.thumbs[view])
    overlays = find_overlays(gray, echo=echo)
    found.text_regions, found.callipers = int(overlays.text_regions), int(overlays.callipers)


def _examine_mask(path: str, shape: tuple[int, int] | None, found: Findings) -> None:
    try:
        mask = read_mask(path)
    except ImageError:
        found.mask_problems = [MaskProblem("unreadable", 1, 0)]
        return
    found.mask_share = float(mask.mean())
    found.mask_problems = mask_problems(mask)
    if shape is not None and mask.shape != shape:
        found.mask_problems.insert(0, MaskProblem("size mismatch", 1, mask.size))


def optional_text(value: object) -> str | None:
    return None if pd.isna(value) else str(value)
