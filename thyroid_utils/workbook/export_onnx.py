"""`thyroid-workbook export`: finished runs as ONNX files, with a card that says what they are and how to use them."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.common.files import write_text
from thyroid_utils.inference.dual_stage import CLASSIFIER, SEGMENTER
from thyroid_utils.inference.ensemble import check_ensemble
from thyroid_utils.inference.known import TASKS, known_of
from thyroid_utils.inference.onnx_dual_stage import divided_stages, export_dual_stage
from thyroid_utils.inference.onnx_export import OPSET, export_network
from thyroid_utils.inference.onnx_network import OnnxNetwork
from thyroid_utils.inference.onnx_stage import JOINT
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.training.ledger import Run
from thyroid_utils.workbook.browser_page import runtime, write_page
from thyroid_utils.workbook.model_card import model_card
from thyroid_utils.workbook.pages import render_page, seen_from_here

DUAL_STAGE, CARD, PAGE = "dual_stage.onnx", "card.md", "page.html"
_KINDS = {TASKS[CLASSIFIER]: CLASSIFIER, TASKS[SEGMENTER]: SEGMENTER, JOINT: JOINT}


def export_onnx(runs: Sequence[Run], out: Path, page: bool = False) -> list[str]:
    """Write runs into a new or empty folder, which is empty again where that fails, and say what was written.

    `classifier.onnx`, `segmenter.onnx` or `joint.onnx`, of several runs of one recipe `classifier-1.onnx`, … in their order;
    `dual_stage.onnx` of one classifier and one segmenter, or one joint run, where one graph can hold them; `card.md`.

    page: write `page.html` too, which runs `dual_stage.onnx` in a browser.

    Raises:
        ParameterError: joint runs with others, runs of several recipes, a network that cannot be exported, a page without
            `dual_stage.onnx`, a folder that holds something.
    """
    kinds = {kind: [run for run in runs if _KINDS[run.config.task] == kind] for kind in _KINDS.values()}
    kinds = {kind: found for kind, found in kinds.items() if found}
    if JOINT in kinds and len(kinds) > 1:
        raise ParameterError("export: joint runs answer for both stages; give them alone, or classifiers and segmenters")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ParameterError(f"export: {out} is there and not an empty folder; give a new or an empty one")
    try:
        for found in kinds.values():
            check_ensemble(found)
        if page:
            runtime()  # fetched now, not after the work
        return list(_write(kinds, out, page))
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, DataError):
            raise ParameterError(f"export: {error}") from None
        raise


def _write(kinds: dict[str, list[Run]], out: Path, page: bool) -> Iterator[str]:
    given, why = [kinds.get(role, kinds.get(JOINT, [])) for role in (CLASSIFIER, SEGMENTER)], ""
    if any(len(found) != 1 for found in given):
        why = "it takes a classifier and a segmenter, or a joint run, one of each"
    else:
        stages = [Predictor(found[0]) for found in given]
        try:
            divided_stages(*stages)
        except DataError as error:
            why = str(error)
    if page and why:
        raise DataError(f"--page runs {DUAL_STAGE}, and there is none: {why}")
    networks, cards, known = [], [], {}
    for kind, runs in kinds.items():
        predictors = [Predictor(run) for run in runs]
        own = {role: known_of(role, predictors) for role in (TASKS if kind == JOINT else [kind])}
        known |= own
        for number, run in enumerate(runs, 1):
            card = model_card(run)
            name = f"{kind}.onnx" if len(runs) == 1 else f"{kind}-{number}.onnx"
            path = export_network(run, out / name, known=own, card=card)
            networks.append(OnnxNetwork(path))
            cards.append(card)
            yield told(path)
    if why:
        yield f"no {DUAL_STAGE}: {why}"
    else:
        yield told(export_dual_stage(*stages, out / DUAL_STAGE, known, "\n".join(cards)))
    if page:
        yield told(write_page(out / DUAL_STAGE, out / PAGE))
    card = render_page("onnx_card.md.j2", networks=networks, opset=OPSET, dual_stage="" if why else DUAL_STAGE, why=why)
    yield told(write_text(out / CARD, "\n".join([f"{card.rstrip()}\n", *cards])))


def told(path: Path) -> str:
    """A file, and its size where that is worth telling."""
    megabytes = path.stat().st_size / 1e6
    return seen_from_here(path) + (f": {megabytes:.1f} MB" if megabytes >= 0.1 else "")
