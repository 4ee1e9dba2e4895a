"""What goes into paper 000's framework and what comes out of it: images with what is known of them, and findings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import ImageError
from thyroid_utils.data.images import read_image
from thyroid_utils.inference.conformal import CLASSES
from thyroid_utils.inference.nodule_measures import MEASURES
from thyroid_utils.preprocess.steps import Sample
from thyroid_utils.scores.checks import checked_spacing

RESEARCH_ONLY = "For research only, not a medical device."
STAGES = ("read", "preprocess", "classify", "segment", "explain", "uncertainty", "measure")

UNCERTAINTY = ("entropy", "sd", "map_disagreement", "map_soft_dice_loss")  # the higher, the less certain


@dataclass(frozen=True)
class CaseImage:
    """An image with what is known of it.

    case: how it is called in results, each otherwise. image: uint8 (height, width) or RGB (height, width, 3), a path, or the
    ImageError that reading it has raised. spacing: (row, column) in mm, one number for both, or None. warnings: of the file.
    """

    case: str
    image: np.ndarray | str | Path | ImageError
    spacing: float | Sequence[float] | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Finding:
    """What was found in one image; arrays at the frame's own resolution.

    Attributes:
        case: its name.
        error: why it could not be used, one line; then nothing below is filled but `frame`, where it was read. "" otherwise.
        frame: uint8 (height, width) or RGB (height, width, 3).
        spacing: as it was given.
        probability: of malignancy, calibrated, in [0, 1]; NaN with an error. uncalibrated: as the network says it.
        threshold: from which on the calibrated probability is called malignant. called: whether it is; None with an error.
        labels: the conformal set, of "benign" and "malignant": may hold both (undecided) or none (both are strange).
        map: probability of nodule, float32 (height, width). mask: bool, where that is at least 0.5.
        attention: Grad-CAM of the class that is called, float32 (height, width) in [0, 1]; 0 where the classifier does not look;
            None by onnxruntime, which has no gradients.
        attention_inside: share of its sum inside the mask; attention_by_chance: that of a map that is the same wherever the
            classifier looks. NaN for a blank map, and where no nodule was found or none of it is where the classifier looks.
        above_chance: whether the classifier was shown to be, on its own test images; else no call is told.
        outline_doubtful: the segmenter's outlines, or this one, are not to be believed; `warnings` say why.
        networks: how many classifiers and segmenters answered.
        uncertainty: name of `UNCERTAINTY` → value: `entropy` of the probability, its `sd` between networks, disagreement and
            soft Dice loss of the maps between networks; of a single network between mirrored and shifted views of the image.
        measures: of `nodule_measures`.
        warnings: what a reader should know, each a few words.
        seconds: stage of `STAGES` → seconds; each batch's are shared equally among its images.
        samples: role → what each network is given, until the finding is finished.
    """

    case: str
    error: str = ""
    frame: np.ndarray | None = None
    spacing: float | Sequence[float] | None = None
    probability: float = float("nan")
    uncalibrated: float = float("nan")
    threshold: float = float("nan")
    called: bool | None = None
    labels: tuple[str, ...] = ()
    map: np.ndarray | None = None
    mask: np.ndarray | None = None
    attention: np.ndarray | None = None
    attention_inside: float = float("nan")
    attention_by_chance: float = float("nan")
    above_chance: bool = True
    outline_doubtful: bool = False
    networks: tuple[int, ...] = (1, 1)
    uncertainty: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict, repr=False)

    @property
    def called_name(self) -> str:
        """ "benign", "malignant", or "" with an error."""
        return "" if self.called is None else CLASSES[self.called]

    @property
    def labels_text(self) -> str:
        """The conformal set as text: "benign", "malignant", "benign or malignant", "neither", or "" with an error."""
        return "" if self.error else " or ".join(self.labels) or "neither"

    def row(self) -> dict[str, object]:
        """Everything but the arrays, as plain values."""
        height, width = (pd.NA, pd.NA) if self.frame is None else self.frame.shape[:2]
        numbers = ("probability", "uncalibrated", "threshold", "attention_inside", "attention_by_chance")
        return {
            "case": self.case,
            "error": self.error,
            "called": self.called_name,
            "labels": self.labels_text,
            **{name: getattr(self, name) for name in numbers},
            **{name: self.uncertainty.get(name, float("nan")) for name in UNCERTAINTY},
            **dict(zip(("classifiers", "segmenters"), self.networks, strict=True)),
            **{name: self.measures.get(name, float("nan")) for name in MEASURES},
            "outline_doubtful": self.outline_doubtful,
            "warnings": "; ".join(self.warnings),
            "height": height,
            "width": width,
            **{f"seconds_{stage}": self.seconds.get(stage, float("nan")) for stage in STAGES},
        }


@dataclass(frozen=True)
class Findings:
    """What was found in many images.

    table: a row an image (index `case`) of `Finding.row`, in their order. kept: case → the whole finding, of those asked for.
    notes: what holds for all of them, such as too few validation images for a promise.
    """

    table: pd.DataFrame
    kept: dict[str, Finding]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Images that could not be used."""
        return int((self.table["error"] != "").sum())


def begun(given: CaseImage) -> Finding:
    """A finding that has its frame, or why there is none, without the file's name, which may be a patient's."""
    finding, image = Finding(given.case, spacing=given.spacing, warnings=given.warnings), given.image
    try:
        checked_spacing(given.spacing, "image")
        if isinstance(image, ImageError):
            raise image
        frame = image if isinstance(image, np.ndarray) else read_image(image)
        if frame.min() == frame.max():
            raise ImageError("all its pixels have one gray level, so that it shows nothing; export it again")
        gray = frame.ndim == 3 and (frame[..., :1] == frame[..., 1:]).all()
        finding.frame = np.ascontiguousarray(frame[..., 0]) if gray else frame
    except ValueError as error:  # ImageError is one
        name = "" if isinstance(image, (np.ndarray, ImageError)) else f"{Path(image)}: "
        finding.error = " ".join(str(error).removeprefix(name).split())
    return finding
