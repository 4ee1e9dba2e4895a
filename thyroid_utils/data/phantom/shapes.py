"""The canvas that tissue is painted on, and the ellipses that most of it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thyroid_utils.data.phantom.exact import smoothstep

_TINY = np.float32(1e-6)


# Bent coordinates leave the straight grid by less than this (mm): 6 standard deviations of tilt, 3 of the bends, and a halo.
_MARGIN = 3.5


@dataclass
class Canvas:
    """Tissue maps under construction, all float32 (height, width).

    `lateral` (width,) and `axial` (height,) positions in mm of the grid, `x` and `y` those of the tissue on it; `echo` dB,
    `attenuation` dB/cm/MHz, `shadow` dB lost in the pixel, `specular` relative amplitude; `noise` named textures of mean 0 and
    SD about 1; `place` the canvas's rows and columns in the whole one.
    """

    lateral: np.ndarray
    axial: np.ndarray
    spacing: float
    noise: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    echo: np.ndarray
    attenuation: np.ndarray
    shadow: np.ndarray
    specular: np.ndarray
    place: tuple[slice, slice]

    @staticmethod
    def blank(lateral: np.ndarray, axial: np.ndarray, tilt: float, spacing: float, noise: dict[str, np.ndarray]) -> Canvas:
        """An empty canvas; `tilt` is the probe's slope (depth a lateral millimetre)."""
        shape = (len(axial), len(lateral))
        middle = np.float32((lateral[0] + lateral[-1]) / 2)
        # Tissue is never quite where geometry puts it: both coordinates bend a little.
        x = lateral[None, :] + np.float32(0.35) * noise["bend"]
        y = axial[:, None] + np.float32(tilt) * (lateral[None, :] - middle) + np.float32(0.3) * noise["sway"]
        maps = [np.zeros(shape, np.float32) for _ in range(4)]
        return Canvas(lateral, axial, spacing, noise, x, y, *maps, (slice(0, shape[0]), slice(0, shape[1])))

    def around(self, x: float, y: float, across: float, deep: float) -> Canvas:
        """The part of this canvas around a shape at (x, y) with these half axes (mm); painting on it paints here.

        Small shapes are painted on such a part, because most of the time goes into pixels that they do not touch.
        """
        top, bottom = np.searchsorted(self.axial, (y - deep - _MARGIN, y + deep + _MARGIN))
        left, right = np.searchsorted(self.lateral, (x - across - _MARGIN, x + across + _MARGIN))
        place = (slice(int(top), int(bottom)), slice(int(left), int(right)))
        noise = {name: texture[place] for name, texture in self.noise.items()}
        maps = [values[place] for values in (self.x, self.y, self.echo, self.attenuation, self.shadow, self.specular)]
        return Canvas(self.lateral[place[1]], self.axial[place[0]], self.spacing, noise, *maps, place)

    def paint(self, weight: np.ndarray, echo: np.ndarray | float, attenuation: float) -> None:
        """Lay a tissue over what is there, by a weight in [0, 1]; it hides interfaces below it."""
        weight = weight.astype(np.float32)
        self.echo += weight * (np.float32(echo) - self.echo)
        self.attenuation += weight * (np.float32(attenuation) - self.attenuation)
        self.specular *= 1 - weight

    def interface(self, distance: np.ndarray, thickness: float, strength: float, weight: np.ndarray) -> None:
        """A smooth reflecting surface where `distance` (mm) is 0: amplitude `strength` relative to the gland's scatterers."""
        thickness = max(thickness, 0.8 * self.spacing)
        line = np.maximum(1 - np.abs(distance) * np.float32(1 / thickness), 0)
        self.specular += (line * line * np.float32(strength) * weight).astype(np.float32)

    def edge_shadow(self, shape: Shape, loss: float) -> None:
        """Refraction at the sides of a round object: a thin shadow of `loss` dB a millimetre below each side."""
        band = np.maximum(1 - np.abs(shape.distance) / np.float32(0.6), 0)
        side = np.clip(1 - shape.facing * 2.2, 0, 1)
        self.shadow += band * side * np.float32(loss * self.spacing)


@dataclass(frozen=True)
class Shape:
    """A closed outline: `distance` in mm (negative inside, near the outline only approximate) and `facing` in [0, 1], how
    squarely the outline meets the beam (1 where it is level, 0 where it is upright)."""

    distance: np.ndarray
    facing: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return self.distance < 0

    def inside(self, softness: float) -> np.ndarray:
        """Weight 1 inside, 0 outside, with a transition of `softness` mm."""
        return smoothstep(0.5 - self.distance * np.float32(1 / softness))


def ellipse(
    canvas: Canvas,
    x: float,
    y: float,
    across: float,
    deep: float,
    turn: float,
    bend: float = 0.0,
    waves: tuple[tuple[int, float, float], ...] = (),
) -> Shape:
    """Ellipse at (x, y) with half axes `across` and `deep` (mm), turned by a small `turn` (tangent of the angle).

    Args:
        bend: how much the texture "bend" dents the outline, relative to its radius.
        waves: (order, relative amplitude, phase) of waves around the outline.
    """
    dx, dy = canvas.x - np.float32(x), canvas.y - np.float32(y)
    u = (dx + np.float32(turn) * dy) * np.float32(1 / across)
    v = (dy - np.float32(turn) * dx) * np.float32(1 / deep)
    radius = np.sqrt(u * u + v * v) + _TINY
    level = radius
    if waves or bend:
        level = radius / _outline(u / radius, v / radius, waves, bend, canvas.noise["broad"])
    nx, ny = u * np.float32(1 / across), v * np.float32(1 / deep)
    slope = nx * nx + ny * ny + _TINY * _TINY
    # Distance by the first-order formula level/|gradient|: right near the outline for any axes.
    distance = (level - 1) * radius / np.sqrt(slope)
    return Shape(distance, ny * ny / slope)


def _outline(cosine: np.ndarray, sine: np.ndarray, waves: tuple, bend: float, dents: np.ndarray) -> np.ndarray:
    """Radius of the outline relative to the ellipse, by direction; the powers of (cosine + i sine) carry the waves."""
    outline = 1 + np.float32(bend) * dents
    real, imaginary = cosine, sine
    power = 1
    for order, height, phase in sorted(waves):
        while power < order:
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
            power += 1
        outline = outline + np.float32(height) * (real * np.float32(_cos(phase)) - imaginary * np.float32(_sin(phase)))
    return np.maximum(outline, np.float32(0.4))


def _cos(angle: float) -> float:
    return float(f"{np.cos(angle):.9f}")  # rounded, so that mathematical libraries agree


def _sin(angle: float) -> float:
    return float(f"{np.sin(angle):.9f}")
