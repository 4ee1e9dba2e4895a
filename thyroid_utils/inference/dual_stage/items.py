"""An image on its way through both stages, and the clock of a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.images import read_image
from thyroid_utils.inference.dual_stage.finding import STAGES, CaseImage
from thyroid_utils.preprocess.pipeline import Pipeline
from thyroid_utils.preprocess.steps import NoduleCrop, Sample
from thyroid_utils.scores.checks import checked_spacing


@dataclass
class Item:
    """An image on its way, with what both networks see of it; `error` takes it out."""

    case: str
    frame: np.ndarray | None = None
    spacing: float | Sequence[float] | None = None
    error: str = ""
    samples: dict[str, Sample] = field(default_factory=dict)
    map: np.ndarray | None = None
    mask: np.ndarray | None = None


class Clock:
    """Seconds spent in each stage of a batch: `with clock("read"): …`."""

    def __init__(self):
        self.spent = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[stage] += time.perf_counter() - began


def read_item(number: int, image: object) -> Item:
    """A frame, a path or a `CaseImage`, with its frame or with why there is none."""
    given = image if isinstance(image, CaseImage) else CaseImage(f"image-{number:04d}", image)
    item, found = Item(given.case, spacing=given.spacing), given.image
    try:
        checked_spacing(given.spacing, "image")
        if isinstance(found, ImageError):
            raise found
        frame = read_image(found) if isinstance(found, str | Path) else found
        kind = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or (frame.ndim != 2 and frame.shape[2:] != (3,)):
            raise ImageError(f"expected a path or uint8 (height, width) or (height, width, 3); found {kind}")
        gray = frame.ndim == 3 and (frame[..., :1] == frame[..., 1:]).all()
        item.frame = np.ascontiguousarray(frame[..., 0]) if gray else frame
    except ValueError as error:  # ImageError is one
        item.error = _without_path(str(error), found)
    return item


def _without_path(message: str, image: object) -> str:
    """A message without the file it names, whose name may be a patient's."""
    if isinstance(image, str | Path):
        for name in (str(image), str(Path(image)), Path(image).name):
            message = message.replace(f"{name}: ", "").replace(name, "the file")
    return " ".join(message.split())


def left_whole(pipeline: Pipeline) -> Pipeline:
    """The same fitted pipeline, whose `nodule_crop` leaves a frame whole where no nodule is found."""
    if not pipeline.needs_mask:
        return pipeline
    steps = [replace(step, empty="frame") if isinstance(step, NoduleCrop) else step for step in pipeline.steps]
    found = Pipeline(steps, pipeline.name)
    found.mean, found.deviation = pipeline.mean, pipeline.deviation
    return found
