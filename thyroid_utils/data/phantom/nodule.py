"""Nodules: each TI-RADS trait as tissue."""

from __future__ import annotations

import math

import numpy as np

from thyroid_utils.data.phantom.draws import Draws
from thyroid_utils.data.phantom.exact import Texture, smoothstep
from thyroid_utils.data.phantom.patients import Nodule
from thyroid_utils.data.phantom.shapes import Canvas, Shape, ellipse
from thyroid_utils.data.phantom.traits import Traits

_FLUID = 0.12  # dB/cm/MHz


def paint_nodule(canvas: Canvas, nodule: Nodule, traits: Traits, gland_echo: float) -> np.ndarray:
    """Paint a nodule over the gland and return its mask, boolean (height, width).

    `gland_echo` (dB) is what the nodule's echogenicity is relative to. The mask is the outline itself, without halo; where the
    edge is ill-defined it runs through the middle of the transition.
    """
    draws = Draws(nodule.detail)
    mask = np.zeros(canvas.echo.shape, bool)
    bulge = 1 + sum(height for _, height, _ in nodule.waves)
    canvas = canvas.around(nodule.x, nodule.y, nodule.across * bulge, nodule.deep * bulge)
    outline = ellipse(canvas, nodule.x, nodule.y, nodule.across, nodule.deep, nodule.turn, waves=nodule.waves)
    inner = _textures(canvas, draws, nodule)
    attenuation = 0.7 if traits.echogenicity in ("hypoechoic", "markedly hypoechoic") else 0.58
    if nodule.halo:
        ring = np.maximum(1 - np.abs(outline.distance - np.float32(0.35)) / np.float32(0.75), 0)
        canvas.echo -= ring * np.float32(9.0) * np.clip(0.85 + 0.35 * canvas.noise["broad"], 0.2, 1.2)
        canvas.specular *= 1 - smoothstep(ring * 2)
    weight = _edge(canvas, outline, nodule, traits)
    level = gland_echo + nodule.echo + nodule.variation * (0.8 * inner["coarse"] + 0.6 * inner["medium"])
    if traits.composition == "cystic":
        _paint_cyst(canvas, outline, weight, nodule, inner)
    else:
        canvas.paint(weight, level, attenuation)
        if traits.composition == "mixed":
            _paint_pockets(canvas, outline, nodule, draws)
        elif traits.composition == "spongiform":
            _paint_sponge(canvas, outline, inner)
    canvas.edge_shadow(outline, 0.7 if traits.margin == "smooth" else 0.15)
    _paint_foci(canvas, outline, nodule, traits, draws)
    mask[canvas.place] = outline.mask
    return mask


def _textures(canvas: Canvas, draws: Draws, nodule: Nodule) -> dict[str, np.ndarray]:
    lateral, axial = canvas.lateral - np.float32(nodule.x), canvas.axial - np.float32(nodule.y - 20.0)
    cells = {"coarse": (2.4, 2.0), "medium": (1.2, 1.0), "sponge": (0.6, 0.48)}
    return {name: Texture(draws, cell, (50.0, 45.0)).at(lateral, axial) for name, cell in cells.items()}


def _edge(canvas: Canvas, outline: Shape, nodule: Nodule, traits: Traits) -> np.ndarray:
    distance = outline.distance
    if traits.margin == "ill-defined":
        distance = distance + np.float32(0.5) * canvas.noise["patchy"] + np.float32(0.4) * canvas.noise["fine"]
    else:
        distance = distance + np.float32(0.13) * canvas.noise["fine"] + np.float32(0.12) * canvas.noise["patchy"]
    return smoothstep(0.5 - distance * np.float32(1 / nodule.softness))


def _paint_cyst(canvas: Canvas, outline: Shape, weight: np.ndarray, nodule: Nodule, inner: dict[str, np.ndarray]) -> None:
    """Fluid with a thin wall; reverberation haze under the front wall, and debris that settles at the back."""
    depth = (canvas.y - np.float32(nodule.y)) / np.float32(nodule.deep)
    haze = 9.0 * smoothstep((-depth - 0.35) / 0.6) + 5.0 * smoothstep((depth - 0.55) / 0.4)
    canvas.paint(weight, nodule.echo + haze + 1.5 * inner["coarse"], _FLUID)
    canvas.interface(outline.distance - 0.1, 0.3, 2.2, outline.facing * outline.facing)


def _paint_pockets(canvas: Canvas, outline: Shape, nodule: Nodule, draws: Draws) -> None:
    """One to four pockets of fluid in a solid nodule."""
    for _ in range(draws.whole(1, 4)):
        angle, out = draws.uniform(0, 2 * math.pi), draws.uniform(0.1, 0.5)
        x = nodule.x + round(math.cos(angle), 6) * out * nodule.across
        y = nodule.y + round(math.sin(angle), 6) * out * nodule.deep
        size = draws.uniform(0.22, 0.48)
        waves = tuple((order, draws.uniform(0.02, 0.14), draws.uniform(0, 2 * math.pi)) for order in (2, 3, 4))
        pocket = ellipse(
            canvas,
            x,
            y,
            nodule.across * size * draws.uniform(0.8, 1.3),
            nodule.deep * size,
            draws.uniform(-0.4, 0.4),
            waves=waves,
        )
        within = smoothstep((-outline.distance - 0.7) / 0.4)
        canvas.paint(pocket.inside(0.5) * within, -30.0, _FLUID)
        canvas.interface(pocket.distance - 0.2, 0.3, 1.1, pocket.facing * pocket.facing * within)


def _paint_sponge(canvas: Canvas, outline: Shape, inner: dict[str, np.ndarray]) -> None:
    """Tiny fluid spaces between bright septa in more than half of the nodule."""
    within = smoothstep((-outline.distance - 0.2) / 0.5)
    spaces = smoothstep((inner["sponge"] + 0.3) / 0.6)
    canvas.paint(spaces * within, -15.0, 0.35)
    canvas.echo += within * (1 - spaces) * np.float32(2.5)
    canvas.specular += within * np.maximum(1 - np.abs(inner["sponge"] + 0.3) * 4, 0) * np.float32(0.8)


def _spot(canvas: Canvas, x: float, y: float, across: float, deep: float) -> np.ndarray:
    """A soft spot, 1 at its centre and 0 beyond its half axes, which are at least a pixel."""
    across, deep = max(across, 1.1 * canvas.spacing), max(deep, 1.1 * canvas.spacing)
    u = (canvas.x - np.float32(x)) * np.float32(1 / across)
    v = (canvas.y - np.float32(y)) * np.float32(1 / deep)
    return np.maximum(1 - u * u - v * v, 0)


def _place_in(nodule: Nodule, draws: Draws, reach: float) -> tuple[float, float]:
    angle, out = draws.uniform(0, 2 * math.pi), math.sqrt(draws.uniform()) * reach
    return nodule.x + round(math.cos(angle), 6) * out * nodule.across, nodule.y + round(math.sin(angle), 6) * out * nodule.deep


def _paint_foci(canvas: Canvas, outline: Shape, nodule: Nodule, traits: Traits, draws: Draws) -> None:
    if traits.foci == "punctate":
        for _ in range(draws.whole(7, 18)):
            spot = _spot(canvas, *_place_in(nodule, draws, 0.75), draws.uniform(0.22, 0.4), 0.2)
            canvas.echo += spot * np.float32(12)
            canvas.specular += spot * np.float32(draws.uniform(4.5, 8.0))
    elif traits.foci == "comet-tail":
        for _ in range(draws.whole(1, 3)):
            x, y = _place_in(nodule, draws, 0.6)
            for step in range(6):
                spot = _spot(canvas, x, y + 0.3 * step, 0.34 - 0.04 * step, 0.2)
                canvas.specular += spot * np.float32(5.0 - 0.8 * step)
    elif traits.foci == "macrocalcification":
        for _ in range(draws.whole(1, 2)):
            x, y = _place_in(nodule, draws, 0.4)
            lump = ellipse(
                canvas,
                x,
                y,
                draws.uniform(0.9, 2.0),
                draws.uniform(0.5, 0.8),
                draws.uniform(-0.3, 0.3),
                waves=((3, 0.2, 1.0), (5, 0.12, 2.0)),
            )
            _paint_chalk(canvas, lump.inside(0.3), lump, 13.0)
    elif traits.foci == "rim":
        arcs = np.clip(0.75 + 1.1 * canvas.noise["broad"], 0, 1)
        shell = np.maximum(1 - np.abs(outline.distance + np.float32(0.25)) / np.float32(0.6), 0)
        canvas.echo += shell * arcs * np.float32(15.0)
        canvas.interface(outline.distance + np.float32(0.25), 0.4, 6.0, arcs * (0.25 + 0.75 * outline.facing))
        canvas.shadow += shell * arcs * np.float32(9.0 * canvas.spacing)


def _paint_chalk(canvas: Canvas, weight: np.ndarray, lump: Shape, loss: float) -> None:
    """Calcium: its front shines, and what lies behind is in its shadow (`loss` dB a millimetre)."""
    canvas.echo += weight * (np.float32(15.0) - canvas.echo)
    canvas.interface(lump.distance, 0.35, 8.0, lump.facing)
    canvas.shadow += weight * np.float32(loss * canvas.spacing)
