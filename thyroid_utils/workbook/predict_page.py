"""The pages of cards that `thyroid-workbook predict` writes: a card an image, its pictures inside the page.

Cards are written to disk as they come, a page's worth at a time, so that memory does not grow with the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image

from thyroid_utils.common.files import write_text
from thyroid_utils.data.overlays import find_echo, find_overlays, mask_box
from thyroid_utils.inference.findings import Finding
from thyroid_utils.preprocess.steps import luma
from thyroid_utils.workbook.pages import embedded_jpeg, number_text, render_page

CARDS_A_PAGE = 100
PICTURE_BYTES = 60_000  # of one picture; as base64 a third more
_PICTURE_WIDTH = 720  # pixels: twice the width of a picture on a card, for sharp screens
_OUTLINE = (255, 214, 10)  # yellow, as outlines have in the figures
_MASK_LEVEL = 90  # gray level of a mask that is shown without its frame
_HEAT_SHARE = 0.45  # of a Grad-CAM map where it is strongest


@dataclass(frozen=True)
class Card:
    """What one card says. Numbers are not defined where they are NaN, and left out then.

    case: the id. calls: labels of the conformal set; empty where both are strange. probability: calibrated, of malignant.
    measures: label → text, in the order shown. error: why there is nothing to say; everything else is then empty.
    """

    case: str
    probability: float = math.nan
    calls: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    pictures: Sequence[Mapping[str, str]] = ()
    error: str | None = None


def card(finding: Finding, warnings: Sequence[str], letters: bool) -> Card:
    """A finding as its card shows it. letters: whether the file says that letters are burned into its pixels; the frame itself is
    not shown then, because nothing finds all of them."""
    if finding.error:
        return Card(finding.case, error=finding.error)
    height, width = finding.frame.shape[:2]
    called = f"{finding.called_name} (malignant from {100 * finding.threshold:.0f} %)"
    facts = {"called": called, "frame": f"{width}×{height}", "entropy": f"{number_text(finding.uncertainty['entropy'])} bits"}
    disagreement = finding.uncertainty.get("map_disagreement", math.nan)
    if math.isfinite(disagreement):
        facts["mask between views, Dice"] = f"{1 - disagreement:.2f}"
    if math.isfinite(finding.attention_inside):
        facts["attention inside"] = f"{100 * finding.attention_inside:.0f} %"
    seen = None if letters else showable(finding.frame)
    pictures = [
        outline_picture(finding.frame, finding.mask, seen),
        heat_picture(finding.frame, finding.attention, finding.mask, seen),
    ]
    return Card(finding.case, finding.probability, finding.labels, facts, _measures(finding.measures), warnings, pictures)


def _measures(found: dict[str, float]) -> dict[str, str]:
    """Those measures that a reader looks for, in mm where that is known, as text; what is not defined is left out."""
    unit, square = ("mm", "mm²") if math.isfinite(found["area_mm2"]) else ("px", "px")
    area = found["area_mm2"] if unit == "mm" else found["area_px"]
    long_axis, short_axis = (found[f"{name}_axis_{unit}"] for name in ("long", "short"))
    if not math.isfinite(area):
        return {}
    digits = 1 if unit == "mm" else 0
    shown = {
        "long × short axis": f"{long_axis:.{digits}f}\u202f×\u202f{short_axis:.{digits}f}\u202f{unit}",
        "area": f"{area:,.0f} {square}",
    }
    if math.isfinite(found["height_over_width"]):
        taller = ", taller than wide" if found["taller_than_wide"] else ""
        shown["height / width"] = f"{found['height_over_width']:.2f}{taller}"
    for name, label, form in (("circularity", "circularity", "{:.2f}"), ("margin_irregularity", "margin irregularity", "{:.2f}"),
                              ("echo_difference", "gray level against surroundings", "{:+.0f}")):  # fmt: skip
        if math.isfinite(found[name]):
            shown[label] = form.format(round(found[name], 2) + 0.0).replace("-", "−")  # + 0.0 makes a zero of −0.0
    return shown


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


def outline_picture(frame: np.ndarray, mask: np.ndarray | None, seen: np.ndarray | None) -> dict[str, str]:
    """The frame's echo image with the nodule outlined, as an embedded picture: dict of `source`, `title` and `alt`.

    frame: uint8 (height, width) or (height, width, 3). mask: bool (height, width), or None. seen: of `showable`; None draws the
    mask alone on black.
    """
    nodule = mask is not None and bool(mask.any())
    base = _shown(frame, seen)
    if nodule and seen is None:
        base[mask] = _MASK_LEVEL
    found = "the predicted nodule outlined" if nodule else "no nodule was found"
    title, alt = ("Nodule; frame not shown", "Frame not shown") if seen is None else ("Nodule", "Frame")
    return {"source": _embedded(_drawn(base, mask), seen), "title": title, "alt": f"{alt}; {found}"}


def heat_picture(frame: np.ndarray, heat: np.ndarray, mask: np.ndarray | None, seen: np.ndarray | None) -> dict[str, str]:
    """The same with a Grad-CAM map laid over it. heat: float (height, width) in [0, 1], 0 where nothing speaks for the class."""
    levels = (255 * np.clip(np.nan_to_num(heat), 0, 1) + 0.5).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = _HEAT_SHARE * (levels[..., None] / 255) ** 0.5  # the frame stays to be seen where the map is weak
    mixed = ((1 - share) * _shown(frame, seen) + share * colours + 0.5).astype(np.uint8)
    title = "Grad-CAM" if levels.any() else "Grad-CAM: blank"
    alt = "Where the classifier looked, as a heat map over " + ("black; frame not shown" if seen is None else "the frame")
    return {"source": _embedded(_drawn(mixed, mask), seen), "title": title, "alt": alt}


def _shown(frame: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """The frame as RGB, black where it may not be seen."""
    colour = np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame
    return np.zeros_like(colour) if seen is None else np.where(seen[..., None], colour, 0).astype(np.uint8)


def _drawn(picture: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None or not mask.any():
        return picture
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(picture.shape[1] / 300))
    return cv2.drawContours(np.ascontiguousarray(picture).copy(), outlines, -1, _OUTLINE, width)


def _embedded(picture: np.ndarray, seen: np.ndarray | None) -> str:
    """A data URI of a JPEG of at most `PICTURE_BYTES`, cropped to what may be seen of the frame."""
    cropped = picture if seen is None else mask_box(seen).crop(picture)
    image = Image.fromarray(np.ascontiguousarray(cropped))
    # Thin coloured lines stay thin without subsampling.
    return embedded_jpeg(image, (_PICTURE_WIDTH, _PICTURE_WIDTH), PICTURE_BYTES, subsampling=0)


def page_names(cards: int, cards_a_page: int = CARDS_A_PAGE) -> list[str]:
    """Names of the pages that so many cards take; one at least."""
    count = max(1, math.ceil(cards / cards_a_page))
    return ["index.html", *(f"page-{number}.html" for number in range(2, count + 1))]


class Pages:
    """Takes card after card and writes `index.html`, `page-2.html`, … into a folder when it is closed.

    Until then the cards lie in the folder as `.cards-N`, one file a page.
    """

    def __init__(self, folder: Path, cards_a_page: int = CARDS_A_PAGE) -> None:
        self.folder, self.cards_a_page = folder, cards_a_page
        self.cards = 0

    def add(self, card: Card) -> None:
        page, self.cards = self.cards // self.cards_a_page + 1, self.cards + 1
        with (self._part(page)).open("a", encoding="utf-8") as part:
            part.write(render_page("predict_card.html.j2", card=card, known=math.isfinite(card.probability)))

    def close(self, **summary: Any) -> list[Path]:
        """Write the pages, each with the same summary (the values of `predict.html.j2`), and return their paths."""
        names = page_names(self.cards, self.cards_a_page)
        for number, name in enumerate(names, start=1):
            part = self._part(number)
            cards = Markup(part.read_text(encoding="utf-8")) if part.is_file() else Markup("")
            write_text(self.folder / name, render_page("predict.html.j2", cards=cards, number=number, names=names, **summary))
            part.unlink(missing_ok=True)
        return [self.folder / name for name in names]

    def _part(self, page: int) -> Path:
        return self.folder / f".cards-{page}"
