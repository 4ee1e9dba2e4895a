"""Random changes of a batch of images and their masks together, on the device that the batch is on, and copies made by them.

Masks are resampled by the nearest pixel and stay boolean; what a turn or shift brings in from outside is black. The changes work
on any scale of gray levels: black is the image's own minimum, and brightness and noise are shares of its range, so that scaled
and z-scored images are treated alike.

`default` has no vertical flip: depth has a meaning in ultrasound. Sound comes from above, shadows and enhancement lie below
what casts them, and an upside-down image shows what no scanner can.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch.nn import functional

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.common.files import cached_folder, content_key
from thyroid_utils.common.progress import Progress
from thyroid_utils.data.images import read_gray, read_mask, write_png
from thyroid_utils.data.table import make_cases
from thyroid_utils.preprocess.named import Entry, Named, listed_presets, parsed
from thyroid_utils.preprocess.pipeline import Spec, contents, for_each_case

Masks = torch.Tensor | None


class Draws:
    """What is drawn for a batch, a row an image, from a generator of its own on the images' device.

    share: as for `Augmentation`. All of the batch is drawn, so that several devices train as one would. A GPU draws the numbers
    of several calls at once, which takes it no longer; on a CPU each call has its own.
    """

    AT_ONCE: ClassVar[dict[str, int]] = {"cpu": 1, "cuda": 32}

    def __init__(self, images: torch.Tensor, seed: Sequence[int] | None, share: tuple[int, int] = (0, 1)):
        self.shape, self.device, self.share = images.shape, images.device, share
        self.left = images.new_empty(0, 0)
        self.generator = None
        if seed is not None:  # a key, so that neither order nor dropout shares its numbers
            stream = np.random.SeedSequence(list(seed), spawn_key=(2,))
            self.generator = torch.Generator(self.device).manual_seed(int(stream.generate_state(1, np.uint64)[0]))

    def even(self, count: int) -> torch.Tensor:
        """(batch, count) in [-1, 1)."""
        if self.left.shape[1] < count:
            self.left = 2 * self._drawn(torch.rand, max(count, self.AT_ONCE[self.device.type])) - 1
        drawn, self.left = self.left[:, :count], self.left[:, count:]
        return drawn

    def field(self) -> torch.Tensor:
        """Standard normal (batch, 1, height, width): one field for all channels."""
        return self._drawn(torch.randn, 1, *self.shape[2:])

    def _drawn(self, draw: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        first, step = self.share
        return draw(step * self.shape[0], *shape, generator=self.generator, device=self.device)[first::step]


AUGMENTATIONS: dict[str, type[Change]] = {}


class Change(Named):
    """A kind of random change. One of gray levels has `change(pixels, span, draws)`: pixels, (batch, channels, height, width),
    begin at 0, and span, (batch, 1, 1, 1), is the range that each image had at first."""

    def __init_subclass__(cls, name: str = ""):
        super().__init_subclass__()
        if name:
            cls.name = name
            AUGMENTATIONS[name] = cls


class Move(Change):
    """A change of places. Its `sources(draws)`, (batch, 3, 3), take a pixel's (x, y, 1), counted from the centre, to those of the
    pixel it comes from."""


class _Flip(Move):
    p: float = Field(0.5, ge=0, le=1)
    signs: ClassVar[tuple[float, float]]

    def sources(self, draws: Draws) -> torch.Tensor:
        # By arithmetic: a GPU would wait for every tensor that is made of numbers here.
        turned = 1 - 2 * (draws.even(1) < 2 * self.p - 1).float()
        still = torch.ones_like(turned)
        return torch.diag_embed(torch.cat([turned if sign < 0 else still for sign in (*self.signs, 1.0)], 1))


class HorizontalFlip(_Flip, name="horizontal_flip"):
    signs = (-1.0, 1.0)


class VerticalFlip(_Flip, name="vertical_flip"):
    signs = (1.0, -1.0)


class Affine(Move, name="affine"):
    """Rotation by up to ±degrees, shift by up to ±translate of the side in whole pixels, size by up to ±scale."""

    degrees: float = Field(0.0, ge=0, le=180)
    translate: float = Field(0.0, ge=0, le=1)
    scale: float = Field(0.0, ge=0, le=0.9)

    def sources(self, draws: Draws) -> torch.Tensor:
        turn, across, down, size = draws.even(4).unbind(1)
        height, width = draws.shape[2:]
        shifts = torch.stack([across * self.translate * width, down * self.translate * height], 1)
        return affine_sources(turn * self.degrees, torch.round(shifts), 1 + size * self.scale)


class Gain(Change, name="gain"):
    """Another gain and dynamic range: image → contrast · image + brightness · range, both drawn evenly."""

    brightness: float = Field(0.1, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, le=1)

    def change(self, pixels: torch.Tensor, span: torch.Tensor, draws: Draws) -> torch.Tensor:
        offset, factor = draws.even(2)[:, :, None, None, None].unbind(1)
        return pixels * (1 + factor * self.contrast) + offset * self.brightness * span


class Speckle(Change, name="speckle"):
    """Normal noise that is multiplied, as speckle is."""

    sigma: float = Field(0.1, ge=0, le=1)

    def change(self, pixels: torch.Tensor, span: torch.Tensor, draws: Draws) -> torch.Tensor:
        return pixels * (1 + self.sigma * draws.field())


class Noise(Change, name="noise"):
    """Normal noise that is added; sigma is a share of the range."""

    sigma: float = Field(0.03, ge=0, le=1)

    def change(self, pixels: torch.Tensor, span: torch.Tensor, draws: Draws) -> torch.Tensor:
        return pixels + self.sigma * span * draws.field()


def affine_sources(degrees: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The matrices of `Move.sources` that turn, shift and scale about the centre.

    Args:
        degrees: (batch,), positive turns clockwise as seen on a screen.
        shifts: (batch, 2), pixels to the right and downwards.
        scales: (batch,), above 1 enlarges.
    """
    angle, nothing = torch.deg2rad(degrees), torch.zeros_like(degrees)
    cosine, sine = torch.cos(angle) / scales, torch.sin(angle) / scales
    across, down = shifts.unbind(1)
    rows = [
        torch.stack([cosine, sine, -across * cosine - down * sine], 1),
        torch.stack([-sine, cosine, across * sine - down * cosine], 1),
        torch.stack([nothing, nothing, nothing + 1], 1),
    ]
    return torch.stack(rows, 1)


def moved(pixels: torch.Tensor, masks: Masks, sources: torch.Tensor) -> tuple[torch.Tensor, Masks]:
    """Images and masks after a move, in one resampling: pixels bilinear, masks by the nearest; outside is 0.

    Args:
        pixels: float (batch, channels, height, width).
        masks: bool (batch, height, width), or None.
        sources: (batch, 3, 3), as `Move.sources` gives them.
    """
    height, width = pixels.shape[-2:]
    x = torch.arange(width, device=pixels.device) - (width - 1) / 2
    y = torch.arange(height, device=pixels.device)[:, None] - (height - 1) / 2
    # By elementwise arithmetic: a matrix product may be rounded to ten bits on a GPU, a tenth of a pixel.
    m = sources.to(pixels.dtype)[..., None, None]
    across, down = (m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2] for row in (0, 1))
    grid = torch.stack([across * (2 / width), down * (2 / height)], dim=-1)
    if masks is not None:
        levels = masks[:, None].to(pixels.dtype)
        masks = functional.grid_sample(levels, grid, mode="nearest", align_corners=False)[:, 0] > 0.5
    return functional.grid_sample(pixels, grid, mode="bilinear", align_corners=False), masks


AUGMENTATION_PRESETS: dict[str, list[Entry]] = listed_presets("augmentation")


@dataclass(frozen=True)
class Augmentation:
    """A list of random changes; made by `build_augmentation`."""

    name: str
    changes: tuple[Change, ...]

    def __call__(
        self, images: torch.Tensor, masks: Masks = None, *, seed: Sequence[int] | None, share: tuple[int, int] = (0, 1)
    ) -> tuple[torch.Tensor, Masks]:
        """Change every image and its mask by one draw, each image by its own.

        Args:
            images: float (batch, channels, height, width), any scale; channels that are alike stay so.
            masks: bool (batch, height, width), or None.
            seed: whole numbers from 0 that decide the draws of the batch, such as seed, epoch and number of the batch. On a GPU
                they decide others than on a CPU. torch's own generator is left as it was; None draws from that.
            share: (first, step) where these are the images `first::step` of a larger batch, shared out among `step` devices.

        Returns:
            images and masks of the same shapes, types and device; each image stays in the range that it had.
        """
        if not self.changes:
            return images, masks
        floor = images.amin(dim=(1, 2, 3), keepdim=True)
        pixels = images - floor
        span = pixels.amax(dim=(1, 2, 3), keepdim=True)
        draws = Draws(images, seed, share)
        for moves, changes in itertools.groupby(self.changes, lambda change: isinstance(change, Move)):
            if moves:
                sources = [change.sources(draws).double() for change in changes]
                pixels, masks = moved(pixels, masks, functools.reduce(torch.matmul, sources))
            else:
                for change in changes:
                    pixels = change.change(pixels, span, draws)
        return torch.minimum(pixels.clamp(min=0), span) + floor, masks


def build_augmentation(spec: Spec | None) -> Augmentation:
    """The augmentation that a parameter names.

    Args:
        spec: a name in `AUGMENTATION_PRESETS`, None for "none", or a list of names and `{name: {parameter: value}}` out of
            `AUGMENTATIONS`, for example `["horizontal_flip", {"affine": {"degrees": 5}}]`.

    Raises:
        DataError: an unknown name or parameter (the nearest valid one is given), or a value out of range.
    """
    spec, name = "none" if spec is None else spec, "custom"
    if isinstance(spec, str):
        if spec not in AUGMENTATION_PRESETS:
            raise DataError(f"augmentation {spec!r} is no preset; {nearest(spec, AUGMENTATION_PRESETS)}")
        name, spec = spec, AUGMENTATION_PRESETS[spec]
    return Augmentation(name, tuple(parsed(entry, AUGMENTATIONS, "augmentation") for entry in spec))


def augmented_copies(
    cases: pd.DataFrame, spec: Spec | None, copies: int = 1, seed: int = 0, progress: Progress | None = None
) -> pd.DataFrame:
    """The case table with augmented copies of every image, written as PNG: what papers 002 and 003 do before they split.

    Args:
        cases: case table.
        spec: as for `build_augmentation`.
        copies: copies of each image.
        seed: decides every copy; independent of the order of the rows and the number of workers.
        progress: called with (images done, images in all); not called where the copies are there already.

    Returns:
        the originals and, behind them, the copies: rows `CASE+1`, ... with the original's patient, label and other columns.
        `source_case` is the original's id (its own, for an original), `copy` the number of the copy (0 for an original), and
        `split` is empty. The files lie in the cache folder, named by the content.

    Raises:
        DataError: an image or a mask that cannot be read, or a cache folder that cannot be written.
    """
    augmentation = build_augmentation(spec)

    def make(folder: Path) -> None:
        def work(case: pd.Series) -> None:
            pixels = read_gray(case["image"])
            mask = np.zeros(pixels.shape, bool) if pd.isna(case["mask"]) else read_mask(case["mask"], shape=pixels.shape)
            images, masks = (torch.from_numpy(array).expand(copies, *array.shape) for array in (pixels.astype(np.float32), mask))
            images, masks = augmentation(images[:, None], masks, seed=(seed, int(_stem(case.name), 16)))
            for copy, (image, outline) in enumerate(zip(images.round().byte(), masks, strict=True), start=1):
                write_png(_file(folder, case.name, copy), image[0].numpy())
                if not pd.isna(case["mask"]):
                    write_png(_file(folder, case.name, copy, "-mask"), outline.numpy())

        for_each_case(work, cases, progress=progress)

    changes = [[change.name, change.model_dump()] for change in augmentation.changes]
    content = sorted([case, *hashes] for case, hashes in zip(cases.index, contents(cases), strict=True))
    target = cached_folder(paths.cache_dir() / "augmented" / content_key(content, changes, copies, seed), make)
    originals = cases.reset_index().assign(source_case=cases.index.to_numpy(), copy=0)
    tables = [originals]
    for copy in range(1, copies + 1):
        table = originals.assign(copy=copy, case=originals["case"] + f"+{copy}")
        table["image"] = [str(_file(target, case, copy)) for case in cases.index]
        outlines = pd.Series([str(_file(target, case, copy, "-mask")) for case in cases.index])
        table["mask"] = outlines.where(originals["mask"].notna(), pd.NA)
        tables.append(table)
    return make_cases(pd.concat(tables, ignore_index=True).assign(split=pd.NA))


def _stem(case: str) -> str:
    """A file name for a case id, which may hold slashes."""
    return hashlib.sha256(case.encode()).hexdigest()[:16]


def _file(folder: Path, case: str, number: int, kind: str = "") -> Path:
    return folder / f"{_stem(case)}-{number}{kind}.png"
