"""The pages of cards that `thyroid-workbook predict` writes: a card an image, its pictures inside the page.

Cards are written to disk as they come, a page's worth at a time, so that memory does not grow with the number of images.
"""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image

from thyroid_utils.common.files import write_text
from thyroid_utils.common.words import share
from thyroid_utils.data.overlays import find_echo, find_overlays, mask_box
from thyroid_utils.inference.findings import Finding
from thyroid_utils.inference.nodule_measures import measures_told
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.workbook.pages import describe, embedded_jpeg, number_text, render_page

BURNED_IN = "the file says that letters are burned into its pixels"
CARDS_A_PAGE = 100
PICTURE_BYTES = 60_000  # of one picture; as base64 a third more
_PICTURE_WIDTH = 720  # pixels: twice the width of a picture on a card, for sharp screens
_OUTLINE = (255, 214, 10)  # yellow, as outlines have in the figures
_DOUBTFUL = (255, 90, 90)
_MASK_LEVEL = 90  # gray level of a mask that is shown without its frame
_HEAT_SHARE = 0.45  # of a Grad-CAM map where it is strongest


class Pages:
    """Takes finding after finding and writes `index.html`, `page-2.html`, … into a folder when it is closed.

    Until then the cards lie in the folder as `.cards-N`, one file a page.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cards = 0

    def add(self, finding: Finding) -> None:
        """Write a finding's card."""
        values = {"finding": finding, "percent": share(finding.probability)}
        if not finding.error:
            # Not the frame where its file says that letters are burned in: nothing finds all of them.
            seen = None if BURNED_IN in finding.warnings else showable(finding.frame)
            heats = (None,) if finding.attention is None else (None, finding.attention)
            pictures = [picture(finding.frame, finding.mask, seen, heat, finding.outline_doubtful) for heat in heats]
            measures = {} if finding.outline_doubtful else measures_told(finding.measures)
            values |= {"facts": card_facts(finding), "measures": measures, "pictures": pictures}
        with self._part(self.cards // CARDS_A_PAGE).open("a", encoding="utf-8") as part:
            part.write(render_page("predict_card.html.j2", **values))
        self.cards += 1

    def close(self, **summary: Any) -> None:
        """Write the pages, each with the same summary: the values of `predict.html.j2`."""
        others = range(2, math.ceil(self.cards / CARDS_A_PAGE) + 1)
        names = ["index.html", *(f"page-{number}.html" for number in others)]
        made = describe()
        for place, name in enumerate(names):
            cards = Markup(self._part(place).read_text(encoding="utf-8"))
            page = render_page("predict.html.j2", cards=cards, number=place + 1, names=names, made=made, **summary)
            write_text(self.folder / name, page)
            self._part(place).unlink()

    def _part(self, place: int) -> Path:
        return self.folder / f".cards-{place}"


def card_facts(finding: Finding) -> dict[str, str]:
    """What a card tells beside the probability: name → text."""
    height, width = finding.frame.shape[:2]
    called = f"{finding.called_name} (malignant from {100 * finding.threshold:.0f} %)"
    facts = {"called": called} if finding.above_chance else {}
    facts |= {"frame": f"{width}×{height}", "entropy": f"{number_text(finding.uncertainty['entropy'])} bits"}
    if finding.networks[0] > 1:
        facts[f"SD between {finding.networks[0]} classifiers"] = f"{100 * finding.uncertainty['sd']:.0f} %"
    disagreement = finding.uncertainty["map_disagreement"]
    if math.isfinite(disagreement):
        between = f"{finding.networks[1]} segmenters" if finding.networks[1] > 1 else "views"
        facts[f"mask between {between}, Dice"] = f"{1 - disagreement:.2f}"
    if math.isfinite(finding.attention_inside):
        facts["attention inside"] = f"{100 * finding.attention_inside:.0f} %"
    return facts


def showable(frame: np.ndarray) -> np.ndarray | None:
    """Which pixels of a frame may be shown: bool (height, width), the echo image without the blocks of letters found in it.

    The border around it is left out, because scanners write names and dates there. None where no echo image is found: such a
    frame is a page of text, or a photograph of one.

    frame: uint8 (height, width) or (height, width, 3).
    """
    echo = find_echo(np.ascontiguousarray(luma(frame)))
    if echo is None:
        return None
    brightest = np.ascontiguousarray(frame if frame.ndim == 2 else frame.max(axis=2))  # coloured letters are dark as luma
    seen = echo & ~_blocks(_letters(brightest, echo) & echo)
    return seen if seen.any() else None


def _letters(gray: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """What is drawn into a frame, looked for at its size and at half of it, where letters of up to 48 pixels are found too."""
    drawn = find_overlays(gray, echo=echo).mask
    size = max(1, gray.shape[1] // 2), max(1, gray.shape[0] // 2)
    small_echo = cv2.resize(echo.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    if not small_echo.any():
        return drawn
    small = find_overlays(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), echo=small_echo).mask
    return drawn | cv2.resize(small.astype(np.uint8), gray.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _blocks(drawn: np.ndarray) -> np.ndarray:
    """The upright boxes around neighbouring drawn pixels: letters that are blacked out one by one can still be read."""
    joined = cv2.dilate(drawn.astype(np.uint8), np.ones((7, 13), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(joined)
    covered = np.zeros(drawn.shape, bool)
    for left, top, width, height, _ in boxes[1:]:
        covered[top : top + height, left : left + width] = True
    return covered


def picture(
    frame: np.ndarray, mask: np.ndarray, seen: np.ndarray | None, heat: np.ndarray | None = None, doubtful: bool = False
) -> dict[str, str]:
    """The frame's echo image with the nodule outlined, as an embedded picture: dict of `source`, `title` and `alt`.

    Args:
        frame: uint8 (height, width) or (height, width, 3).
        mask: bool (height, width).
        seen: of `showable`; None draws the mask alone on black.
        heat: a Grad-CAM map laid over it: float (height, width) in [0, 1], 0 where nothing speaks for the class.
        doubtful: the outline is drawn in red, broken, and the title says so.
    """
    colour = np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame
    drawn = np.zeros_like(colour) if seen is None else np.where(seen[..., None], colour, 0).astype(np.uint8)
    if heat is not None:
        title, alt = "Grad-CAM" if heat.any() else "Grad-CAM: blank", "where the classifier looked, as a heat map"
        drawn = _heated(drawn, heat)
    else:
        title = "Doubtful outline" if doubtful else "Nodule"
        alt = f"the predicted nodule{', doubtful,' * doubtful} outlined" if mask.any() else "no nodule was found"
        drawn[mask] = _MASK_LEVEL if seen is None else drawn[mask]
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(drawn.shape[1] / 300))
    if doubtful:
        outlines = [dash for outline in outlines for dash in np.array_split(outline, max(2, len(outline) // (6 * width)))[::2]]
        drawn = cv2.polylines(np.ascontiguousarray(drawn), outlines, False, _DOUBTFUL, width)
    else:
        drawn = cv2.drawContours(np.ascontiguousarray(drawn), outlines, -1, _OUTLINE, width)
    shown = np.ascontiguousarray(drawn if seen is None else mask_box(seen).crop(drawn))
    # Thin coloured lines stay thin without subsampling.
    source = embedded_jpeg(Image.fromarray(shown), (_PICTURE_WIDTH, _PICTURE_WIDTH), PICTURE_BYTES, subsampling=0)
    hidden = "; frame not shown" if seen is None else ""
    return {"source": source, "title": title + hidden, "alt": f"Frame; {alt}{hidden}"}


def _heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    levels = (255 * np.clip(np.nan_to_num(heat), 0, 1) + 0.5).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = _HEAT_SHARE * (levels[..., None] / 255) ** 0.5  # the frame stays to be seen where the map is weak
    return ((1 - share) * picture + share * colours + 0.5).astype(np.uint8)
