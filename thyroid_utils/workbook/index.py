"""The index of an output folder: what was asked, what came out, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from thyroid_utils.workbook.pages import PROVENANCE, embedded_jpeg, is_interval, number_text, render_page, split_interval

KEY_NUMBERS = 6
_THUMBNAIL_SIZE = (640, 400)  # pixels: twice the width of a card, for sharp screens
_THUMBNAIL_BYTES = 45_000  # as base64 this is 60 kB


def render_index(run: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """The HTML of `index.html`. run: run.json; metrics: metrics.json; folder: where the figures lie."""
    cards = []
    for stem, record in run["notebooks"].items():
        recorded = metrics.get(stem, {})
        cards.append(
            {
                **record,
                "stem": stem,
                "question": Markup(record["question"]),
                "numbers": key_numbers(recorded),
                "provenance": provenance(recorded),
                "thumbnail": thumbnail(record["figures"], folder),
            }
        )
    shared = _shared_parameters([card["parameters"] for card in cards if card["status"] in ("finished", "failed")])
    return render_page("index.html.j2", run=run, cards=cards, shared=shared)


def key_numbers(recorded: Mapping[str, Mapping[str, Any]], most: int = KEY_NUMBERS) -> list[dict[str, Any]]:
    """The first recorded values that a card can show, those with a label first: dicts with label, text, unit and interval."""
    shown = []
    for name, entry in recorded.items():
        value = entry["value"]
        short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40)
        if (short or is_interval(value)) and not name.startswith(PROVENANCE):
            label, (middle, interval) = entry.get("label"), split_interval(value)
            shown.append(
                {
                    "label": label or name.replace("_", " "),
                    "labelled": label is not None,
                    "text": number_text(middle),
                    "unit": entry.get("unit"),
                    "interval": interval,
                }
            )
    return sorted(shown, key=lambda entry: not entry["labelled"])[:most]


def provenance(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Recorded data fingerprints and split hashes by label."""
    chosen = {name: entry for name, entry in recorded.items() if name.startswith(PROVENANCE) and entry["value"] is not None}
    return {entry.get("label") or name.replace("_", " "): str(entry["value"]) for name, entry in chosen.items()}


def thumbnail(figures: list[dict[str, Any]], folder: Path) -> dict[str, str] | None:
    """The cover, else the first figure, as an embedded JPEG of at most 60 kB: a dict with source and alt, or None."""
    chosen = next((figure for figure in figures if figure["cover"]), figures[0] if figures else None)
    if chosen is None or not (folder / f"{chosen['file']}.png").is_file():
        return None
    with Image.open(folder / f"{chosen['file']}.png") as opened:
        picture = opened.convert("RGB")
    return {"source": embedded_jpeg(picture, _THUMBNAIL_SIZE, _THUMBNAIL_BYTES), "alt": chosen["caption"]}


def _shared_parameters(given: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that every notebook which has them was given alike; the cards list the others."""
    values: dict[str, list[Any]] = {}
    for parameters in given:
        for name, value in parameters.items():
            values.setdefault(name, []).append(value)
    return {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}
