"""What all pages share: the Jinja templates, numbers and durations as they are read.

And what a page says about where it was made (versions, commit, hardware), and what it must not say: a path of the machine.
"""

import base64
import html
import io
import json
import os
import platform
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from PIL import Image

import thyroid_utils
from thyroid_utils.common import paths
from thyroid_utils.common.machine import answer, commit, versions
from thyroid_utils.common.words import count, literal

# Nothing may be fetched and no script may run, whatever a notebook displays.
CONTENT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)


_PACKAGES = ("thyroid-utils", "torch", "torchvision", "numpy", "pandas", "scikit-learn", "scikit-image", "opencv-python-headless",
             "segmentation-models-pytorch", "matplotlib", "papermill")  # fmt: skip

_DATA_FILES = "png|jpe?g|tiff?|bmp|gif|webp|dcm|dicom|xml|csv|json|npy|npz|txt"
_LEFT_ALONE = ("image/png", "image/jpeg", "image/webp", "application/pdf")  # base64, which could hold a path only by accident


def render_page(template: str, **values: Any) -> str:
    """Fill one of `templates/`; every value is escaped unless it is Markup."""
    return environment().get_template(template).render(policy=CONTENT_POLICY, **values)


@cache
def environment() -> jinja2.Environment:
    """Of the templates; `markdown` adds filters to it."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(duration=duration_text, number=number_text, cell=markdown_cell, images=partial(count, noun="image"))
    return made


def markdown_cell(value: Any) -> str:
    """A value in a table of markdown: on one line, no letter of it a mark of the table, of emphasis or of HTML."""
    return re.sub(r"([|<*`])", r"\\\1", " ".join(str(value).split()))


def duration_text(seconds: float | None) -> str:
    """`0.8 s`, `12.2 s`, `3 min 05 s`."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def seen_from_here(path: Path) -> str:
    """A path as it is shortest in the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..")) else relative


def embedded_jpeg(picture: Image.Image, size: tuple[int, int], most: int, **options: Any) -> str:
    """A picture as a data address: a JPEG of at most `size` pixels, and of at most `most` bytes as far as quality allows."""
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    for quality in (85, 75, 60, 45, 30, 15):
        stream = io.BytesIO()
        picture.save(stream, "jpeg", quality=quality, optimize=True, **options)
        if stream.tell() <= most:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def number_text(value: Any) -> str:
    """A recorded value as a card shows it: three significant digits, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:#.3g}".rstrip(".") if isinstance(value, float) else str(value)


def describe() -> dict[str, Any]:
    """Versions of Python and the packages that decide numbers, the commit of the project, the hardware; no host or user name."""
    told = {"python": platform.python_version(), **versions(_PACKAGES)}
    return {"versions": told, "commit": commit(), "hardware": hardware()}


def hardware() -> str:
    """Processor, usable cores, memory and the NVIDIA GPUs that `nvidia-smi` names, as a phrase."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(errors="replace"), re.M) if cpuinfo.is_file() else None
    processor = named.group(1) if named else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpus = answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    told = ", ".join(gpus.splitlines()) if gpus else "no GPU"
    return f"{processor}, {count(cores, 'core')}, {memory:.1f} GB memory, {told}, {platform.system()}"


def _spelled(path: str) -> set[str]:
    """A path as text, markdown, HTML, addresses, Python and JSON write it, its accents in one or two characters."""
    forms = {path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))}
    quoted = {way(form)[1:-1] for form in forms for way in (repr, json.dumps)}
    ways = (str, literal, partial(html.escape, quote=False), partial(quote, errors="surrogateescape"))
    return quoted | {way(form) for form in forms for way in ways}


class Scrubber:
    """Replaces absolute paths of this machine in text, and in the strings of anything that JSON can hold.

    Files of the project become project-relative, the home becomes `~`; `private` folders (output), the environment and the
    temporary folder keep their last name: `…/reports/ddti`. Of folders of `data` nothing is kept, their own name, those below
    them and those of files included, as they may name a patient: `DATA_ROOT/…`, and the rest of the line goes with it
    where no suffix or quote tells a name's end. Errors of a user's own data, which also name files alone, are not left to it
    (`notebooks.without_messages`).
    """

    def __init__(self, private: Iterable[str | Path] = (), data: Iterable[str | Path] = ()) -> None:
        shown_as: dict[str, str] = {}
        home = Path.home()  # its last name is a person's
        for folder in [home, sys.prefix, sys.base_prefix, tempfile.gettempdir(), paths.cache_dir(), *private]:
            for known in (os.path.abspath(folder), os.path.realpath(folder)):
                if len(Path(known).parts) > 1:
                    shown_as[known] = "~" if folder == home else f"…/{Path(known).name}"
        checkout = Path(thyroid_utils.__file__).parents[1]  # where the package lies, not always the project that it serves
        for root in (paths.project_root(), checkout):
            shown_as |= {str(root): "", os.path.realpath(root): ""}
        self._shown_as = shown_as
        known_as = {path for folder in data for path in (os.path.abspath(folder), os.path.realpath(folder))}
        hidden = set().union(*map(_spelled, known_as))
        paths_of_data = "|".join(re.escape(path) for path in sorted(hidden, key=len, reverse=True))
        # Names may hold spaces, quotes and any other mark: as far as the line's last file or quotation ends, or else the line.
        last = r"(?:(?!</)[^/\n])*"
        below = rf"/(?:(?:(?!</)[^\n])*/)?(?:{last}\.(?:{_DATA_FILES})(?! ?[\w.-])|{last}(?=['\"][^\w\n]*$)|{last})"
        before, flags = r"(?:(?<![\w.…~-])|(?<=\dm))", re.IGNORECASE | re.MULTILINE
        self._data = re.compile(rf"{before}(?:{paths_of_data})({below}|(?![\w.-]))", flags) if hidden else None
        # Whole names only: /data/set is not /data/settings. The colour codes of tracebacks end in a digit and m.
        names = "|".join(re.escape(path) for path in sorted(shown_as, key=len, reverse=True))
        self._pattern = re.compile(rf"(?:(?<![\w.…~-])|(?<=\dm))({names})(?:(/)|(?![\w-]|\.\w))")

    def text(self, text: str) -> str:
        if "/" not in text:
            return text
        if self._data is not None:
            text = self._data.sub(lambda match: "DATA_ROOT/…" if match.group(1) else "DATA_ROOT", text)
        return self._pattern.sub(self._replacement, text)

    def _replacement(self, match: re.Match[str]) -> str:
        path, slash = match.group(1), match.group(2) or ""
        shown = self._shown_as[path]
        return shown + slash if shown else "" if slash else f"…/{Path(path).name}"

    def anything(self, value: Any) -> Any:
        """`value` with every string scrubbed, keys included; dicts and lists become new ones of the same kind."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            cleaned = {self.text(key) if isinstance(key, str) else key: inner if key in _LEFT_ALONE else self.anything(inner)
                       for key, inner in value.items()}  # fmt: skip
            return type(value)(cleaned)
        if isinstance(value, list | tuple):
            return type(value)(self.anything(inner) for inner in value)
        return value
