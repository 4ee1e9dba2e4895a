"""Pictures of one case under layers that a reader fades, zooms and measures, in the browser and without a network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import cv2
import numpy as np
import traitlets

# Name of a layer → what it is called.
LAYERS = {"frame": "Frame", "truth": "Truth", "prediction": "Prediction", "attention": "Grad-CAM", "uncertainty": "Uncertainty"}
_COLOURS = {"truth": (10, 214, 255), "prediction": (122, 214, 55), "uncertainty": (107, 59, 255)}  # blue, green, red
_MOST, _LEAST = 1000, 480  # pixels of the longer side: a larger picture is made smaller, and a smaller one outlined finer
_FILLED = 0.35  # opacity of what an outline encloses
_HEAT = 0.75  # opacity of a Grad-CAM map where it is strongest


class Viewer(anywidget.AnyWidget):
    """Pictures side by side; an arrow key or button calls `on_step`.

    Attributes:
        pictures: of `picture`. spacing: mm a pixel, 0 where unknown. position: which case it is, as text.
        opacity: name of a layer → in [0, 1]; what is not asked for by it need not be given.
        on_step: called with −1 or 1.
    """

    _esm, _css = (Path(__file__).with_name(f"viewer.{kind}") for kind in ("js", "css"))
    layers = traitlets.List([list(layer) for layer in LAYERS.items()]).tag(sync=True)
    pictures = traitlets.List(traitlets.Dict()).tag(sync=True)
    opacity = traitlets.Dict({"frame": 1, "truth": 0.8, "prediction": 0.8, "attention": 0, "uncertainty": 0}).tag(sync=True)
    spacing = traitlets.Float(0).tag(sync=True)
    position = traitlets.Unicode("").tag(sync=True)

    def __init__(self, on_step: Callable[[int], None] = lambda by: None, **values: Any) -> None:
        super().__init__(**values)
        self.on_msg(lambda _, content, __: on_step(int(content["step"])))


def picture(title: str, layers: Mapping[str, np.ndarray], note: str = "") -> dict[str, Any]:
    """One picture for a `Viewer`.

    Args:
        title, note: what stands above it, in bold and beside that.
        layers: by the names of `LAYERS`: `frame`, uint8 (height, width) or (height, width, 3); of its size, as far as there are
            any, `truth`, bool, and `prediction` (probability of nodule, outlined at 0.5), `attention` and `uncertainty`, in
            [0, 1].
    """
    height, width = layers["frame"].shape[:2]
    scale = min(1.0, _MOST / max(height, width))
    made = {name: _png(_drawn(name, layers[name], scale)) for name in LAYERS if name in layers}
    return {"title": title, "note": note, "width": width, "height": height, "layers": made}


def _drawn(name: str, values: np.ndarray, scale: float) -> np.ndarray:
    """A layer as blue, green, red and opacity, uint8; a gray frame as it is."""
    if name == "frame":
        values = values if values.ndim == 2 else values[..., ::-1]
        return cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else values
    values = np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1)
    if name == "attention":
        values = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
        return np.dstack([colours, (values * _HEAT * 255).astype(np.uint8)])
    if name in ("truth", "prediction"):
        scale *= max(1, round(_LEAST / max(values.shape)))
    values = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    opacity = values * (_FILLED if name != "uncertainty" else 1)
    drawn = np.dstack([np.full((*values.shape, 3), _COLOURS[name], np.uint8), (opacity * 255).astype(np.uint8)])
    if name != "uncertainty":
        outlines, _ = cv2.findContours((values >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, (*_COLOURS[name], 255), max(1, round(max(values.shape) / 240)))
    return drawn


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
