"""The README's pictures: the covers of a finished report as small WebP files beside this script.

make report
.venv/bin/python reports/gallery/make_pictures.py reports/quick
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

SIZE = (560, 420)  # pixels at most; the README shows them at half of that
LARGEST = 60_000  # bytes


def write_small(picture: Path, target: Path) -> None:
    """A PNG as WebP of at most `SIZE` and `LARGEST`, at the best quality that this leaves."""
    with Image.open(picture) as opened:
        small = opened.convert("RGB")
    small.thumbnail(SIZE, Image.Resampling.LANCZOS)
    for quality in range(90, 20, -10):
        small.save(target, quality=quality, method=6)
        if target.stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{picture}: larger than {LARGEST} bytes at every quality")


def main(report: Path) -> None:
    run = json.loads((report / "run.json").read_text(encoding="utf-8"))
    for stem, record in run["notebooks"].items():
        covers = [figure["file"] for figure in record["figures"] if figure["cover"]] or [record["figures"][0]["file"]]
        write_small(report / f"{covers[0]}.png", Path(__file__).with_name(f"{stem}.webp"))
        print(f"{stem}: {covers[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
