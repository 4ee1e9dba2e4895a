"""The preprocessing of the five papers, and one of our own, as step lists by name.

A paper's list holds what it describes, in its order. Where it is silent the choice is ours, and `note` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A step list as a parameter file would hold it, and what the paper says and leaves open."""

    steps: tuple[str | dict[str, dict[str, Any]], ...]
    note: str


PRESETS: dict[str, Preset] = {
    "paper_000": Preset(
        ("gray", {"resize": {"size": 224}}, "scale", {"zscore": {"by": "train"}}, "three_channels"),
        "The paper: 224×224, tensor, masks from {0, 255} to {0, 1}, (I - µ)/σ. Silent on where µ and σ come from (ours: all "
        "pixels of the training images), on the aspect ratio (ours: stretched) and on channels (ours: gray in three, for "
        "networks trained on photographs). Scanner text and borders stay in the image.",
    ),
    "paper_001": Preset(
        ("gray", {"resize": {"size": 224}}, "scale", {"zscore": {"by": "train"}}, "three_channels"),
        'The paper: "resize images to 224x224, ... and normalize them". Silent on how it normalises (ours: z-score by the '
        "training images), on the aspect ratio (ours: stretched) and on channels (ours: gray in three).",
    ),
    "paper_002": Preset(
        (
            "gray",
            "crop_echo",
            "remove_overlays",
            "equalise",
            {"gaussian": {"sigma": 1.0}},
            {"resize": {"size": 512}},
            "scale",
        ),
        "The paper: large borders and useless information deleted, histogram equalisation to equalise and smooth; its code "
        "scores at 512×512. Silent on how borders are found and text is removed (ours: found in each image, inpainted), on the "
        "smoothing (ours: Gaussian, σ = 1 pixel) and on scaling (ours: to 0 to 1).",
    ),
    "paper_003": Preset(
        (
            "gray",
            {"resize": {"size": 512}},
            {"gaussian": {"sigma": 1.0}},
            {"clahe": {"clip_limit": 2.0, "tiles": 8}},
            "scale",
        ),
        "The paper: 8-bit gray, 512×512, Gaussian filter, CLAHE, in this order. It gives no parameters (ours: σ = 1 pixel, clip "
        "limit 2, 8×8 tiles) and no scaling (ours: to 0 to 1). It calls the noise Gaussian; speckle is not.",
    ),
    "paper_004": Preset(
        ("gray", "scale", {"resize": {"size": 256}}),
        "The paper: grayscale, normalised, 256×256, in this order. Silent on how it normalises (ours: to 0 to 1).",
    ),
    "plain": Preset(
        ("gray", "crop_echo", {"resize": {"size": 256}}, "scale"),
        "Ours, as little as leaves the scanner's frame out: the echo image, cropped, at one size, scaled to 0 to 1.",
    ),
}
