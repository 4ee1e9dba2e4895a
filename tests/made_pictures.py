"""Pictures that look like frames, drawn from a seed, and the small files that data sets are built of."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.images import write_png
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.table import make_cases

FRAME = np.full((30, 40), 90, np.uint8)
SPOT = np.zeros((30, 40), bool)
SPOT[10:20, 10:25] = True


def picture(seed: int, size: int = 128) -> np.ndarray:
    """Speckle over a few soft shapes, darker with depth: uint8 (size, size)."""
    random = np.random.default_rng(seed)
    shapes = cv2.GaussianBlur(random.normal(0, 1, (size, size)), (0, 0), size / 16)
    echo = np.exp(shapes / shapes.std() * 0.6) * random.rayleigh(1, (size, size)) * np.linspace(1.5, 0.5, size)[:, None]
    return np.clip(60 * cv2.GaussianBlur(echo, (0, 0), 1), 0, 255).astype(np.uint8)


def disc(size: int = 96, radius: float = 30) -> np.ndarray:
    """A disc in the middle: bool (size, size)."""
    rows, columns = np.mgrid[:size, :size] - size / 2
    return rows**2 + columns**2 <= radius**2


def put(folder: Path, *names: str, pixels: np.ndarray = FRAME) -> None:
    """Write the same pixels under these names."""
    for name in names:
        write_png(folder / name, pixels)


def stored(folder: Path, pictures: list[np.ndarray], **columns) -> pd.DataFrame:
    """The case table of pictures written as `0000.png`, …: cases `made/0000`, a patient each, and further columns."""
    rows = []
    for number, pixels in enumerate(pictures):
        image = write_png(folder / f"{number:04d}.png", pixels)
        rows.append({"case": f"made/{number:04d}", "image": str(image), "patient": str(number), "dataset": "made"})
    return make_cases(pd.DataFrame(rows).assign(**columns))


def refusal(dataset: str, root: Path | None, **options) -> str:
    """The one line with which a data set is refused; it always names what or where, and what to do."""
    with pytest.raises(DataError) as error:
        load_cases(dataset, root, **options)
    text = str(error.value)
    assert "\n" not in text and "; " in text, text
    return text
