"""One HTML file that runs an exported dual stage in a browser, so that no image leaves the machine.

It holds the networks and ONNX Runtime Web, opens by a double click, and its policy forbids it to ask the network for anything.
"""

import base64
import gzip
import hashlib
import http.client
import io
import math
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.common.files import write_bytes, write_text
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import listed, number
from thyroid_utils.inference.doubts import CHANCE, FAIR_DICE
from thyroid_utils.inference.known import SCORES, Known
from thyroid_utils.inference.onnx_network import opened
from thyroid_utils.workbook.pages import render_page
from thyroid_utils.workbook.predict import MOST_PIXELS

VERSION = "1.30.0"  # of onnxruntime-web
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # as npm states it
_MEMBERS = {"library": "package/dist/ort.wasm.bundle.min.mjs", "wasm": "package/dist/ort-wasm-simd-threaded.wasm"}
_MEGABYTES = 32
_TIMEOUT = 10  # seconds without a byte
_LARGEST = 256 * 2**20  # bytes of a model; browsers hold no text of 512 MB, and base64 adds a third


def write_page(model: Path, page: Path) -> Path:
    """Write an exported dual stage (`dual_stage.onnx`) as a page of HTML with all that runs it, and return the page's path.

    Raises:
        DataError: a file that is no such export; ONNX Runtime Web as of `runtime`.
        ParameterError: networks too large for a browser.
    """
    told, size = opened(model)[1], model.stat().st_size
    if set(told.get("known", {})) != set(SCORES) or "input" in told:
        raise DataError(f"{model}: one network, not the two of a dual stage; export a classifier and a segmenter together")
    if size > _LARGEST:
        most = f"a browser takes up to {_LARGEST / 2**20:.0f} MB"
        raise ParameterError(f"export --page: {model} has {size / 2**20:.0f} MB, {most}; export smaller networks")
    files = runtime() | {"model": model.read_bytes()}
    values = {"packed": {name: _packed(content) for name, content in files.items()}, "version": VERSION}
    networks = {role: Known.of_json(told["known"][role]) for role in SCORES}
    facts = {
        role.capitalize(): f"{told['model'][role]}, run {told['run'][role][:8]}; {SCORES[role]} {own.score} on own test images"
        for role, own in networks.items()
    }
    values |= {"known": _known(told, networks), "facts": facts, "research_only": told["research_only"]}
    return write_text(page, render_page("browser_page.html.j2", **values))


def _known(told: dict[str, Any], networks: dict[str, Known]) -> dict[str, Any]:
    """What the page's script says beside the numbers, of an export's metadata."""
    outside = dict.fromkeys(name for steps in told["outside"].values() for step in steps for name in step)
    undone = listed(name for name in outside if name not in ("gray", "crop_echo", "resize"))
    dice, warnings = networks["segmenter"].score.value, []
    if undone != "none":
        warnings.append(f"The networks learnt from pictures after {undone}, which is not done here: the numbers do not hold.")
    if not dice >= FAIR_DICE:
        had = "were not measured" if math.isnan(dice) else f"had a Dice of {number(dice)}"
        warnings.append(f"The segmenter's outlines {had} on its own test images.")
    above = networks["classifier"].score.low > CHANCE
    return {
        "threshold": told["known"]["classifier"]["threshold"],
        "no_call": "" if above else "none, as the classifier is not shown to be above chance",
        "fair_outlines": dice >= FAIR_DICE,
        "crop": "crop_echo" in outside,
        "warnings": warnings,
        "most_pixels": MOST_PIXELS,
    }


def runtime() -> dict[str, bytes]:
    """What a page needs of ONNX Runtime Web: `library` (JavaScript) and `wasm`, from the cache folder or fetched once.

    Raises:
        DataError: it is not there and cannot be fetched, or is damaged. It names the address and where to put the file.
    """
    kept = paths.cache_dir() / ADDRESS.rpartition("/")[2]
    by_hand, is_new = f"download {ADDRESS}, put it into {kept.parent} and run again", not kept.is_file()
    try:
        content = _fetched() if is_new else kept.read_bytes()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{kept} is not there, or cannot be read or fetched ({error}); {by_hand}") from None
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != _SHA512:
        raise DataError(f"{ADDRESS if is_new else kept}: its SHA-512 is not that of onnxruntime-web {VERSION}; {by_hand}")
    if is_new:
        write_bytes(kept, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        return {name: package.extractfile(member).read() for name, member in _MEMBERS.items()}


def _fetched() -> bytes:
    """The package as npm's registry gives it."""
    progress, parts = progress_bar("Fetching onnxruntime-web"), []
    with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT) as answer:
        while part := answer.read(2**20):
            parts.append(part)
            progress(len(parts), _MEGABYTES)
    return b"".join(parts)


def _packed(content: bytes) -> Markup:
    """Bytes as text for a page: base64 of gzip, which browsers unpack."""
    return Markup(base64.b64encode(gzip.compress(content, 4, mtime=0)).decode())
