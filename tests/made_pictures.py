"""Pictures that look like frames, drawn from a seed."""

from __future__ import annotations

import cv2
import numpy as np


def picture(seed: int, size: int = 128) -> np.ndarray:
    """Speckle over a few soft shapes, darker with depth: uint8 (size, size)."""
    random = np.random.default_rng(seed)
    shapes = cv2.GaussianBlur(random.normal(0, 1, (size, size)), (0, 0), size / 16)
    echo = np.exp(shapes / shapes.std() * 0.6) * random.rayleigh(1, (size, size)) * np.linspace(1.5, 0.5, size)[:, None]
    return np.clip(60 * cv2.GaussianBlur(echo, (0, 0), 1), 0, 255).astype(np.uint8)
