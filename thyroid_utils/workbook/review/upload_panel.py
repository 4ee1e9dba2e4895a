"""An image of the reader's own, looked at by a report's networks: in memory, with what `predict` says and warns of."""

from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import InMemory
from thyroid_utils.common.words import share
from thyroid_utils.inference.findings import RESEARCH_ONLY
from thyroid_utils.studies.case_review import Review
from thyroid_utils.training.ledger import Run
from thyroid_utils.workbook.review import MOST_BYTES
from thyroid_utils.workbook.review.viewer import Viewer, picture

_ROLES = {"classifier": ("classification", "joint"), "segmenter": ("segmentation", "joint")}


class Upload(anywidget.AnyWidget):
    """Takes one file; calls `on_file` with its bytes. told: what is said below it. most: bytes that are sent."""

    _esm = Path(__file__).with_name("upload.js")
    told = traitlets.Unicode("Nothing of it is kept, and none of its names is read.").tag(sync=True)
    most = traitlets.Int(MOST_BYTES).tag(sync=True)


def upload_panel(review: Review) -> widgets.Widget:
    """Upload an image, see what the report's networks find in it.

    Of each kind the network answers that is best on validation, with all its trainings, of the first case set that has one.
    """
    chosen, upload, shown = _networks(review), Upload(), widgets.VBox()
    if missing := [role for role in _ROLES if not chosen.get(role)]:
        return widgets.HTML(f"An image of your own cannot be looked at: the report has no {' and no '.join(missing)}.")
    stage: list[Any] = []

    def look(_: Any, __: Any, buffers: list[memoryview]) -> None:
        content, shown.children = bytes(buffers[0]) if buffers else b"", ()
        try:
            if not stage:
                upload.told = "The networks are being loaded (some seconds, once) …"
                stage.append(_stage(chosen))
            upload.told = "The networks look at it …"
            shown.children = [_shown(_finding(stage[0], content))]
            upload.told = ""
        except DataError as error:
            upload.told = f"This image cannot be looked at: {error}."
        except Exception as error:
            upload.told = f"This image cannot be looked at ({type(error).__name__}); another may."
            raise

    upload.on_msg(look)
    return widgets.VBox([upload, shown])


def _networks(review: Review) -> dict[str, list[Run]]:
    """Role → the trainings of its network, as far as there is one."""
    found: dict[str, list[Run]] = {}
    for cases in review.sets:
        for role, tasks in _ROLES.items():
            for name in cases.of_task(*tasks)[: role not in found]:
                found[role] = [fold for run in cases.networks[name] for fold in run.folds]
    return found


def _stage(chosen: dict[str, list[Run]]) -> Any:
    from thyroid_utils.inference.dual_stage import DualStage
    from thyroid_utils.inference.predictor import predictors_of

    return DualStage(*(predictors_of(chosen[role]) for role in _ROLES))


def _finding(stage: Any, content: bytes) -> Any:
    """What a `DualStage` finds in the first frame of a file. DataError where it cannot be read or is too large."""
    from thyroid_utils.workbook.predict import case_images

    if len(content) > MOST_BYTES:
        raise DataError(f"more than {MOST_BYTES // 2**20} MB; export one frame of it")
    image = next(case_images([("uploaded", InMemory(content), "")], None, lambda done, total: None))
    (finding,) = stage.findings([image])
    if finding.error:
        raise DataError(finding.error)
    finding.warnings = (*stage.notes, *finding.warnings, *("of its frames the first is shown",) * ("-frame-" in image.case))
    return finding


def _shown(finding: Any) -> widgets.Widget:
    """The picture with its layers, the numbers, and what to doubt."""
    from thyroid_utils.inference.nodule_measures import measures_told
    from thyroid_utils.workbook.predict_page import card_facts

    layers = {"frame": finding.frame, "prediction": finding.map, "attention": finding.attention}
    spacing = finding.spacing if isinstance(finding.spacing, float) else max(finding.spacing or (0.0,))
    seen = Viewer(
        pictures=[picture("Your image", layers, f"probability of malignant {share(finding.probability)}")], spacing=spacing
    )
    facts = {"probability of malignant": share(finding.probability), "prediction set": finding.labels_text, **card_facts(finding)}
    facts |= {} if finding.outline_doubtful else measures_told(finding.measures)
    rows = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    warned = "".join(f"<li>{escape(warning)}</li>" for warning in dict.fromkeys(finding.warnings))
    return widgets.VBox(
        [seen, widgets.HTML(f"<div class='review-table'><table>{rows}</table></div><ul>{warned}</ul><p>{RESEARCH_ONLY}</p>")]
    )
