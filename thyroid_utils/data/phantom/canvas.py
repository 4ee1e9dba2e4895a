"""The canvas that tissue is painted on, the ellipses that most of it is made of, and the smooth noise that keeps it irregular."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_TINY = np.float32(1e-6)
_START, _SPAN = (-65.0, -4.0), (130.0, 84.0)  # lateral and axial mm that textures cover
# Bent coordinates leave the straight grid by less than this (mm): 6 standard deviations of tilt, 3 of the bends, and a halo.
_MARGIN = 3.5

Waves = tuple[tuple[int, float, float], ...]  # (order, relative amplitude, phase) of each wave around an outline


def smoothstep(position: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1, 3t² - 2t³ between."""
    t = np.clip(position, 0, 1)
    return t * t * (3 - 2 * t)


def _spline(knots: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Quadratic B-spline through the rows of `knots` (knots, n), read at `positions` (m,): float32 (m, n)."""
    nearest = np.clip(np.rint(positions), 1, len(knots) - 2).astype(np.intp)
    offset = np.clip(positions - nearest, -0.5, 0.5).astype(np.float32)[:, None]
    before, after = 0.5 * (0.5 - offset) ** 2, 0.5 * (0.5 + offset) ** 2
    # Three products and no matrix product, whose order of summation depends on the number of threads.
    return knots[nearest - 1] * before + knots[nearest] * (1 - before - after) + knots[nearest + 1] * after


def texture(random: np.random.Generator, cell: tuple[float, float], lateral: np.ndarray, axial: np.ndarray) -> np.ndarray:
    """Smooth noise fixed to the tissue: a spline through random knots, the same seen from any position of the probe.

    Args:
        random: where the knots come from.
        cell: (lateral, axial) distance of the knots in mm.
        lateral, axial: (width,) and (height,) positions in mm.

    Returns:
        float32 (height, width), mean 0, SD about 1.
    """
    columns, rows = (int(length / distance) + 3 for length, distance in zip(_SPAN, cell, strict=True))
    # A uniform number's SD is 0.289, of which the spline's averaging over both axes leaves 0.55.
    knots = (random.random((columns, rows), np.float32) - np.float32(0.5)) * np.float32(6.4)
    across = _spline(knots, (lateral - _START[0]) / cell[0] + 1)
    return _spline(np.ascontiguousarray(across.T), (axial - _START[1]) / cell[1] + 1)


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
    place: tuple[slice, slice] = (slice(None), slice(None))

    @staticmethod
    def blank(lateral: np.ndarray, axial: np.ndarray, tilt: float, spacing: float, noise: dict[str, np.ndarray]) -> Canvas:
        """An empty canvas; `tilt` is the probe's slope (depth a lateral millimetre)."""
        # Tissue is never quite where geometry puts it: both coordinates bend a little.
        x = lateral[None, :] + 0.35 * noise["bend"]
        y = axial[:, None] + np.float32(tilt) * (lateral - lateral.mean())[None, :] + 0.3 * noise["sway"]
        return Canvas(lateral, axial, spacing, noise, x, y, *np.zeros((4, *x.shape), np.float32))

    def around(self, x: float, y: float, across: float, deep: float) -> Canvas:
        """The part of this canvas around a shape at (x, y) with these half axes (mm); painting on it paints here.

        Small shapes are painted on such a part, because most of the time goes into pixels that they do not touch.
        """
        top, bottom = np.searchsorted(self.axial, (y - deep - _MARGIN, y + deep + _MARGIN))
        left, right = np.searchsorted(self.lateral, (x - across - _MARGIN, x + across + _MARGIN))
        place = (slice(top, bottom), slice(left, right))
        noise = {name: values[place] for name, values in self.noise.items()}
        maps = [values[place] for values in (self.x, self.y, self.echo, self.attenuation, self.shadow, self.specular)]
        return Canvas(self.lateral[place[1]], self.axial[place[0]], self.spacing, noise, *maps, place)

    def paint(self, weight: np.ndarray, echo: np.ndarray | float, attenuation: float) -> None:
        """Lay a tissue over what is there, by a weight in [0, 1]; it hides interfaces below it."""
        self.echo += weight * (echo - self.echo)
        self.attenuation += weight * (attenuation - self.attenuation)
        self.specular *= 1 - weight

    def interface(self, distance: np.ndarray, thickness: float, strength: float, weight: np.ndarray | float) -> None:
        """A smooth reflecting surface where `distance` (mm) is 0: amplitude `strength` relative to the gland's scatterers."""
        line = np.maximum(1 - np.abs(distance) / max(thickness, 0.8 * self.spacing), 0)
        self.specular += line * line * strength * weight

    def edge_shadow(self, shape: Shape, loss: float) -> None:
        """Refraction at the sides of a round object: a thin shadow of `loss` dB a millimetre below each side."""
        band = np.maximum(1 - np.abs(shape.distance) / 0.6, 0)
        self.shadow += band * np.clip(1 - shape.facing * 2.2, 0, 1) * (loss * self.spacing)


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
        return smoothstep(0.5 - self.distance / softness)


def ellipse(
    canvas: Canvas, x: float, y: float, across: float, deep: float, turn: float = 0.0, bend: float = 0.0, waves: Waves = ()
) -> Shape:
    """Ellipse at (x, y) with half axes `across` and `deep` (mm), turned by a small `turn` (tangent of the angle).

    Args:
        bend: how much the texture "broad" dents the outline, relative to its radius.
        waves: (order, relative amplitude, phase) of waves around the outline.
    """
    dx, dy = canvas.x - np.float32(x), canvas.y - np.float32(y)
    u = (dx + turn * dy) / across
    v = (dy - turn * dx) / deep
    radius = np.sqrt(u * u + v * v) + _TINY
    level = radius / _outline(u / radius, v / radius, waves, bend * canvas.noise["broad"]) if waves or bend else radius
    nx, ny = u / across, v / deep
    slope = nx * nx + ny * ny + _TINY * _TINY
    # Distance by the first-order formula level/|gradient|: right near the outline for any axes.
    return Shape((level - 1) * radius / np.sqrt(slope), ny * ny / slope)


def _outline(cosine: np.ndarray, sine: np.ndarray, waves: Waves, dents: np.ndarray) -> np.ndarray:
    """Radius of the outline relative to the ellipse, by direction; the powers of (cosine + i sine) carry the waves."""
    outline = 1 + dents
    real, imaginary, power = cosine, sine, 1
    for order, height, phase in sorted(waves):
        while power < order:
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
            power += 1
        outline = outline + height * (real * math.cos(phase) - imaginary * math.sin(phase))
    return np.maximum(outline, 0.4)
