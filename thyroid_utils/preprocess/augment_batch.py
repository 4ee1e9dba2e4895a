"""The random changes of `augment`, for a whole batch at once and on the device that the batch is on.

Each image is changed by its own draw, which a key of whole numbers decides (seed, epoch, position of the case …). So a case is
changed alike whatever batch it is in, and training that is taken up again goes on as it would have. The draws differ from
those of `augment.Augmentation`, which serves files and figures; kinds, order and ranges are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from thyroid_utils.preprocess.augment import Augmentation

Masks = torch.Tensor | None
Draws = Sequence[np.random.Generator]


def augment_batch(
    augmentation: Augmentation, images: torch.Tensor, masks: Masks = None, *, keys: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, Masks]:
    """Change every image and its mask by the same draw.

    Args:
        augmentation: as `augment.build_augmentation` makes it.
        images: float (batch, channels, height, width), any scale; noise is one field for all channels.
        masks: bool (batch, height, width), or None.
        keys: whole numbers from 0, a sequence for each image; the same key and image give the same result.

    Returns:
        images and masks of the same shapes, types and device; each image stays in the range that it had.

    Raises:
        ValueError: not one key for each image.
    """
    if len(keys) != len(images):
        raise ValueError(f"augment_batch: {len(keys)} keys for {len(images)} images; give each image one")
    if not augmentation.steps:
        return images, masks
    floor = images.amin(dim=(1, 2, 3), keepdim=True)
    pixels = images - floor  # black is the image's own minimum, as in `augment`
    top = _brightest(pixels)
    draws = [np.random.default_rng(list(key)) for key in keys]
    for name, parameters in augmentation.steps:
        pixels, masks = BATCHED[name](pixels, masks, draws, **parameters)
    return torch.minimum(pixels.clamp(min=0), top) + floor, masks


def affine_batch(
    pixels: torch.Tensor, masks: Masks, degrees: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor
) -> tuple[torch.Tensor, Masks]:
    """Turn, shift and scale each image about its centre in one resampling; what comes in from outside is 0.

    Args:
        pixels: (batch, channels, height, width), resampled bilinearly.
        masks: bool (batch, height, width), resampled by the nearest pixel, or None.
        degrees: (batch,), positive turns clockwise as seen on a screen.
        shifts: (batch, 2), pixels to the right and downwards.
        scales: (batch,), above 1 enlarges.
    """
    height, width = pixels.shape[-2:]
    angle = degrees * (math.pi / 180)
    cosine, sine = (torch.cos(angle) / scales)[:, None, None], (torch.sin(angle) / scales)[:, None, None]
    # Where each output pixel comes from, in pixels from the centre. By elementwise arithmetic and not by a matrix product,
    # whose rounding may depend on the size of the batch.
    x = torch.arange(width, device=pixels.device, dtype=pixels.dtype) - (width - 1) / 2 - shifts[:, 0, None]  # (batch, width)
    y = torch.arange(height, device=pixels.device, dtype=pixels.dtype) - (height - 1) / 2 - shifts[:, 1, None]
    x, y = x[:, None, :], y[:, :, None]
    grid = torch.stack([(x * cosine + y * sine) * (2 / width), (y * cosine - x * sine) * (2 / height)], dim=-1)
    moved = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if masks is not None:
        levels = masks[:, None].to(pixels.dtype)
        masks = functional.grid_sample(levels, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0] > 0.5
    return moved, masks


def _brightest(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.amax(dim=(1, 2, 3), keepdim=True)


def _uniform(draws: Draws, count: int, like: torch.Tensor) -> torch.Tensor:
    """(batch, count) in [-1, 1), on the images' device."""
    return torch.tensor(np.stack([draw.uniform(-1, 1, count) for draw in draws]), dtype=like.dtype, device=like.device)


def _flip(pixels: torch.Tensor, masks: Masks, draws: Draws, p: float, axis: int) -> tuple[torch.Tensor, Masks]:
    chosen = torch.tensor([draw.random() < p for draw in draws], device=pixels.device)
    pixels = torch.where(chosen[:, None, None, None], pixels.flip(axis), pixels)
    return pixels, None if masks is None else torch.where(chosen[:, None, None], masks.flip(axis), masks)


def _horizontal_flip(pixels: torch.Tensor, masks: Masks, draws: Draws, p: float) -> tuple[torch.Tensor, Masks]:
    return _flip(pixels, masks, draws, p, axis=-1)


def _vertical_flip(pixels: torch.Tensor, masks: Masks, draws: Draws, p: float) -> tuple[torch.Tensor, Masks]:
    return _flip(pixels, masks, draws, p, axis=-2)


def _affine(
    pixels: torch.Tensor, masks: Masks, draws: Draws, degrees: float, translate: float, scale: float
) -> tuple[torch.Tensor, Masks]:
    drawn = _uniform(draws, 4, pixels)
    height, width = pixels.shape[-2:]
    shifts = torch.round(drawn[:, 1:3] * translate * torch.tensor([width, height], device=pixels.device))
    return affine_batch(pixels, masks, drawn[:, 0] * degrees, shifts, 1 + drawn[:, 3] * scale)


def _gain(pixels: torch.Tensor, masks: Masks, draws: Draws, brightness: float, contrast: float) -> tuple[torch.Tensor, Masks]:
    drawn = _uniform(draws, 2, pixels)[:, :, None, None, None]
    return pixels * (1 + drawn[:, 1] * contrast) + drawn[:, 0] * brightness * _brightest(pixels), masks


def _field(pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Standard normal (batch, 1, height, width), each image's from a generator of its own."""
    field = torch.empty(len(pixels), 1, *pixels.shape[-2:], dtype=pixels.dtype, device=pixels.device)
    generator = torch.Generator(pixels.device)
    for position, draw in enumerate(draws):
        field[position].normal_(generator=generator.manual_seed(int(draw.integers(2**62))))
    return field


def _speckle(pixels: torch.Tensor, masks: Masks, draws: Draws, sigma: float) -> tuple[torch.Tensor, Masks]:
    return pixels * (1 + sigma * _field(pixels, draws)), masks


def _noise(pixels: torch.Tensor, masks: Masks, draws: Draws, sigma: float) -> tuple[torch.Tensor, Masks]:
    return pixels + sigma * _field(pixels, draws) * _brightest(pixels), masks


# The names of `augment.AUGMENTATIONS`; (pixels, masks, draws, **parameters) → (pixels, masks).
BATCHED = {
    "horizontal_flip": _horizontal_flip,
    "vertical_flip": _vertical_flip,
    "affine": _affine,
    "gain": _gain,
    "speckle": _speckle,
    "noise": _noise,
}
