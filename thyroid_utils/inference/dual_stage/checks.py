"""Whether two runs can be the two stages, and on what their images were preprocessed: refused before the first image."""

from __future__ import annotations

from thyroid_utils.common.errors import DataError
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.preprocess.pipeline import Pipeline, Spec, build_pipeline
from thyroid_utils.preprocess.steps import Resize
from thyroid_utils.training.data import input_pipeline
from thyroid_utils.training.ledger import RECIPE, Run

_TASKS = {"classifier": ("classification", "joint"), "segmenter": ("segmentation", "joint")}


def check_roles(classifier: Run, segmenter: Run) -> None:
    """Raise DataError where a run is of a task that its stage cannot use, saying so where the two are only exchanged."""
    given = {"classifier": classifier, "segmenter": segmenter}
    wrong = {role: run for role, run in given.items() if run.config.task not in _TASKS[role]}
    if len(wrong) == 2:
        raise DataError(
            f"the classifier is {_shown(classifier)} and the segmenter {_shown(segmenter)}: give them the other way round"
        )
    for role, run in wrong.items():
        raise DataError(f"the {role} is {_shown(run)}; expected a run of task {' or '.join(_TASKS[role])}")


def check_input(role: str, run: Run, spec: Spec | None = None, size: int | None = None) -> None:
    """Raise DataError, naming the difference, where images would reach a run's network otherwise than in its training.

    Args:
        role: "classifier" or "segmenter", for the message.
        run: whose input it is.
        spec, size: what the images are to get, as for `build_pipeline`; None takes the run's own, which is then held against the
            channels and the size that the run recorded.
    """
    own = input_pipeline(run.config)
    trained, now = tuple(run.data["input"]), (own.channels, *_size(own))
    if trained != now:
        raise DataError(
            f"the {role}, {_shown(run)}, was trained on images of {_form(trained)}, and its preprocessing now gives "
            f"{_form(now)}; train it again, or use the version of the workbook that trained it"
        )
    if spec is None and size is None:
        return
    found = build_pipeline(run.config.preprocessing if spec is None else spec, size or _size(own))
    difference = _difference(own, found)
    if difference:
        raise DataError(
            f"the {role}, {_shown(run)}, was trained on other preprocessing than the images get: {difference}; give a run that "
            "was trained on it, or let each run prepare its own input"
        )


def _difference(trained: Pipeline, images: Pipeline) -> str:
    """The first step or parameter in which two pipelines differ, "" where they are one."""
    if trained.channels != images.channels:
        return f"{_channels(trained.channels)} in training, {_channels(images.channels)} now"
    one, two = ([step.name for step in pipeline.steps] for pipeline in (trained, images))
    if one != two:
        return f"{' → '.join(one)} in training, {' → '.join(two)} now"
    for first, second in zip(trained.steps, images.steps, strict=True):
        for name, value in first.parameters().items():
            if second.parameters()[name] != value:
                return f"{first.name} with {name} {value} in training, {second.parameters()[name]} now"
    return ""


def run_notes(classifier: Predictor, segmenter: Predictor) -> list[str]:
    """What a reader should know of two runs, as sentences without a full stop."""
    said = []
    for role, predictor in (("classifier", classifier), ("segmenter", segmenter)):
        if predictor.run.data["recipe"] != RECIPE:
            said.append(f"the {role} was trained by another version of the code, which may have preprocessed images otherwise")
        if predictor.run.data["leaky"]:
            said.append(f"the {role} was trained on a split by image: its own test scores, and thresholds, are too good")
    if classifier.pipeline.needs_mask:
        said.append(
            "the classifier was trained on crops around true masks, as were its threshold, calibration and conformal sets made; "
            "here it sees crops around predicted ones"
        )
    return said


def _shown(run: Run) -> str:
    return f"run {run.name} ({run.config.model.name}, task {run.config.task})"


def _size(pipeline: Pipeline) -> tuple[int, int]:
    """Height and width of what a pipeline gives."""
    size = next(step.size for step in pipeline.steps if isinstance(step, Resize))
    return (size, size) if isinstance(size, int) else tuple(size)


def _form(shape: tuple[int, ...]) -> str:
    return f"{_channels(shape[0])} of {shape[1]}×{shape[2]} pixels"


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"
