"""The neck as tissue maps: skin, fat, strap muscles, lobe and isthmus, trachea with its shadow, vessels, deep muscles, spine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thyroid_utils.data.phantom.draws import Draws
from thyroid_utils.data.phantom.exact import Texture, smoothstep
from thyroid_utils.data.phantom.nodule import paint_nodule
from thyroid_utils.data.phantom.patients import TEXTURES, Neck, Patient, View
from thyroid_utils.data.phantom.physics import Tissue, dropout
from thyroid_utils.data.phantom.shapes import Canvas, ellipse

_SPAN = (130.0, 80.0)  # mm of tissue that the textures cover


@dataclass(frozen=True)
class Scene:
    """Tissue maps of a view with the true outlines (boolean) of nodule and gland, all (height, width)."""

    tissue: Tissue
    nodule: np.ndarray
    gland: np.ndarray


def build_scene(patient: Patient, view: View, shape: tuple[int, int], spacing: float, seed: int) -> Scene:
    """Paint what the probe sees in this view.

    Args:
        patient, view: descriptions; the left lobe is painted mirrored.
        shape: (height, width) of the echo area in pixels.
        spacing: mm a pixel.
        seed: of the set.
    """
    height, width = shape
    lateral = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) * np.float32(spacing * view.stretch)
    lateral = lateral + np.float32(patient.centre + view.shift[0])
    axial = (np.arange(height, dtype=np.float32) + np.float32(0.5)) * np.float32(spacing * view.stretch)
    axial = axial + np.float32(view.shift[1])
    draws = Draws(seed, TEXTURES, patient.number)
    canvas = Canvas.blank(lateral, axial, view.tilt, spacing, _textures(draws, lateral, axial))
    shade = 1.1 * Texture(draws, (1.4, 80.0), _SPAN).at(lateral, axial[:1])[0]
    shade += 1.6 * Texture(draws, (5.0, 80.0), _SPAN).at(lateral, axial[:1])[0]
    neck = patient.neck
    _paint_deep(canvas, neck, patient.plane)
    _paint_layers(canvas, neck, patient.plane)
    gland = _paint_gland(canvas, neck, patient.plane)
    if patient.plane == "transverse":
        _paint_trachea(canvas, neck)
        _paint_vessels(canvas, neck, patient.side)
    nodule = paint_nodule(canvas, patient.nodule, patient.traits, neck.gland_echo)
    _paint_skin(canvas, neck)
    canvas.shadow[0] += shade  # uneven contact and fat dim some scan lines all the way down
    canvas.attenuation += np.float32(patient.penetration)
    if patient.loose_edge:
        canvas.shadow[0] += dropout(width, patient.loose_edge, 0.16)[0]
    tissue = Tissue(canvas.echo, canvas.attenuation, canvas.shadow, canvas.specular)
    if patient.side == "left":
        flipped = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in vars(tissue).items()}
        return Scene(Tissue(**flipped), nodule[:, ::-1].copy(), (gland | nodule)[:, ::-1].copy())
    return Scene(tissue, nodule, gland | nodule)


def _textures(draws: Draws, lateral: np.ndarray, axial: np.ndarray) -> dict[str, np.ndarray]:
    cells = {
        "broad": (7.0, 5.0), "patchy": (2.6, 2.2), "fine": (0.9, 0.8), "fibres": (6.0, 0.8), "threads": (7.0, 0.45),
        "bend": (9.0, 11.0), "sway": (13.0, 9.0),
    }  # fmt: skip
    return {name: Texture(draws, cell, _SPAN).at(lateral, axial) for name, cell in cells.items()}


def _paint_deep(canvas: Canvas, neck: Neck, plane: str) -> None:
    """Loose connective tissue, the long muscle of the neck, and the front of the spine."""
    noise = canvas.noise
    fibres = 5.5 * np.maximum(noise["fibres"], 0) + 4.5 * np.maximum(noise["threads"], 0)
    islands = np.clip(5.0 * (noise["patchy"] + noise["broad"] - 1.3), 0, 5)
    canvas.echo[:] = -5.5 + 2.6 * noise["broad"] + 1.6 * noise["patchy"] + fibres + islands
    canvas.attenuation[:] = 0.6
    x = neck.lobe[0] * 0.9 if plane == "transverse" else 0.0
    reach = 12.0 if plane == "transverse" else 60.0
    y = neck.lobe[1] + neck.lobe_axes[1] + 3.4
    muscle = ellipse(canvas, x, y, reach, 3.6, 0.02)
    weight = muscle.inside(0.5)
    canvas.paint(weight, neck.muscle_echo - 1.0 + 6.5 * np.maximum(noise["threads"] - 0.1, 0) + 1.5 * noise["patchy"], 0.75)
    canvas.interface(muscle.distance, 0.45, 1.2, muscle.facing * np.clip(0.4 + 0.6 * noise["fibres"], 0, 1))
    spine = canvas.y - np.float32(neck.spine) - 1.3 * noise["sway"] - 0.6 * noise["bend"]
    bone = np.clip(0.45 + 0.6 * noise["broad"] + 0.3 * noise["patchy"], 0, 1)
    canvas.interface(spine, 0.8, 2.4, bone)
    canvas.echo += smoothstep(1.2 - np.abs(spine) * 1.0) * bone * (8.0 + 2 * noise["patchy"])
    below = smoothstep(spine / 1.0)
    canvas.paint(below, -9.0 + 2 * noise["broad"], 1.2)


def _paint_layers(canvas: Canvas, neck: Neck, plane: str) -> None:
    """Strap and sternomastoid muscles over the gland, fat above them, each with its bright fascia."""
    noise = canvas.noise
    x = canvas.x
    arch = np.float32(neck.arch) * x * x if plane == "transverse" else np.zeros_like(x)
    depth = canvas.y - arch - 0.55 * noise["sway"]
    threads = np.maximum(noise["threads"] - 0.35, 0)
    strap_bottom = depth - np.float32(neck.strap)
    muscle = neck.muscle_echo + 7.0 * threads + 0.7 * noise["patchy"]
    canvas.paint(smoothstep(0.5 - strap_bottom / 0.6), muscle, 0.7)
    canvas.interface(strap_bottom, 0.3, 1.5, np.clip(0.6 + 0.5 * noise["fibres"], 0, 1))
    between = depth - np.float32(0.45 * neck.fat + 0.55 * neck.strap) - 0.35 * noise["bend"]
    canvas.interface(between, 0.22, 1.0, np.clip(0.5 + 0.6 * noise["fibres"], 0, 1))
    if plane == "transverse":
        mastoid = ellipse(canvas, neck.lobe[0] + neck.lobe_axes[0] + 8.0, neck.strap + 1.2, 15.0, 4.6, 0.18)
        canvas.paint(mastoid.inside(0.5), muscle + 0.8, 0.7)
        canvas.interface(mastoid.distance, 0.35, 1.6, 0.2 + 0.8 * mastoid.facing)
    fat_bottom = depth - np.float32(neck.fat)
    septa = 7.0 * np.maximum(noise["threads"] - 0.3, 0)
    canvas.paint(smoothstep(0.5 - fat_bottom / 0.5), neck.fat_echo + septa + 1.2 * noise["patchy"], 0.55)
    canvas.interface(fat_bottom, 0.3, 1.7, np.clip(0.65 + 0.45 * noise["fibres"], 0, 1))


def _paint_gland(canvas: Canvas, neck: Neck, plane: str) -> np.ndarray:
    """Both lobes and the isthmus before the trachea, or one lobe along its length; returns the gland's mask."""
    noise = canvas.noise
    echo = neck.gland_echo + neck.gland_variation * (noise["patchy"] + 0.8 * noise["broad"]) + 0.5 * noise["fine"]
    lobes = [ellipse(canvas, *neck.lobe, *neck.lobe_axes, neck.lobe_turn, bend=0.05 if plane == "transverse" else 0.03)]
    gland = lobes[0].mask
    if plane == "transverse":
        lobes.append(ellipse(canvas, -neck.lobe[0] - 1.0, neck.lobe[1], 8.5, 8.0, -neck.lobe_turn, bend=0.05))
        depth, radius = neck.trachea
        ring = ellipse(canvas, 0.0, depth, radius + 0.5 + neck.isthmus, radius + 0.3 + neck.isthmus, 0.0)
        bridge = (canvas.y < np.float32(depth - 0.25 * radius)) & ring.mask
        canvas.paint(ring.inside(0.3) * smoothstep((np.float32(depth - 0.1 * radius) - canvas.y) / 2.0), echo, 0.55)
        canvas.interface(ring.distance, 0.25, 1.0, ring.facing * (canvas.y < np.float32(depth - 0.5 * radius)))
        gland = gland | lobes[1].mask | bridge
    for lobe in lobes:
        canvas.paint(lobe.inside(0.35), echo, 0.55)
        outside = lobe.distance - 0.1
        canvas.interface(outside, 0.28, 1.4, (0.2 + 0.8 * lobe.facing) * np.clip(0.7 + 0.4 * noise["fibres"], 0, 1))
    if plane == "transverse":
        inner = ellipse(canvas, 0.0, neck.trachea[0], neck.trachea[1] + 0.4, neck.trachea[1] + 0.2, 0.0)
        gland = gland & ~inner.mask
    return gland


def _paint_trachea(canvas: Canvas, neck: Neck) -> None:
    """Dark cartilage ring, bright air surface, and behind it a shadow that repeats the surface ever fainter."""
    depth, radius = neck.trachea
    noise = canvas.noise
    wall = ellipse(canvas, 0.0, depth, radius, radius, 0.0)
    canvas.paint(wall.inside(0.3), -9.0 + noise["patchy"], 0.9)
    air = ellipse(canvas, 0.0, depth, radius - 1.5, radius - 1.5, 0.0)
    behind = air.inside(0.2)
    inward = -air.distance
    phase = inward * np.float32(1 / 2.3) - np.rint(inward * np.float32(1 / 2.3))
    repeats = np.maximum(1 - np.abs(phase) * 4, 0) * np.maximum(9.0 - 1.1 * inward, 0) * air.facing * air.facing
    canvas.paint(behind, -15.0 - 0.7 * inward + 2 * noise["broad"] + repeats, 0.55)
    front = np.clip(air.facing * 1.3 - 0.25, 0, 1) * (canvas.y < np.float32(depth))
    canvas.echo += smoothstep(1.3 - np.abs(air.distance) / 0.55) * front * (np.float32(15.0) + 4 * noise["patchy"])
    canvas.interface(air.distance, 0.5, 4.0, front * np.clip(0.75 + 0.4 * noise["patchy"], 0.2, 1.2))
    # The air column casts a shadow on all that lies under the trachea; what is left are the repeated echoes.
    shade = (canvas.y > np.float32(depth + 0.2 * radius)) * smoothstep((np.float32(radius - 0.8) - np.abs(canvas.x)) / 1.2)
    canvas.paint(shade, -24.0 + 2 * noise["broad"], 0.55)


def _paint_vessels(canvas: Canvas, neck: Neck, side: str) -> None:
    """Carotid: round, no echo, bright wall. Jugular vein: flat. Both let the sound pass. Oesophagus behind the left lobe."""
    x, y, radius = neck.carotid
    if side == "left":
        across, deep = neck.trachea[1] + 1.2, neck.trachea[0] + 4.5
        part = canvas.around(across, deep, 3.6, 2.6)
        part.paint(ellipse(part, across, deep, 3.6, 2.5, 0.3).inside(0.4), -9.0, 0.6)
        part.paint(ellipse(part, across, deep, 1.6, 0.6, 0.3).inside(0.4), 3.0, 0.6)
    part = canvas.around(x, y, radius + 0.8, radius + 0.8)
    wall = ellipse(part, x, y, radius + 0.8, radius + 0.8, 0.0)
    part.paint(wall.inside(0.4), 0.5 + part.noise["patchy"], 0.6)
    blood = ellipse(part, x, y, radius, radius, 0.0)
    part.paint(blood.inside(0.3), -31.0 + 6 * smoothstep(1.0 + blood.distance / 1.3), 0.16)
    part.interface(blood.distance - 0.2, 0.4, 3.2, blood.facing * blood.facing)
    part.edge_shadow(blood, 1.2)
    part = canvas.around(*neck.jugular)
    vein = ellipse(part, *neck.jugular, 0.35)
    part.paint(vein.inside(0.35), -30.0, 0.16)
    part.interface(vein.distance - 0.2, 0.3, 1.7, vein.facing * vein.facing)


def _paint_skin(canvas: Canvas, neck: Neck) -> None:
    """Skin under the probe: bright, with the probe's own ringing in the first millimetre; always level with the image."""
    depth = (np.arange(canvas.echo.shape[0], dtype=np.float32)[:, None] + np.float32(0.5)) * np.float32(canvas.spacing)
    noise = canvas.noise
    weight = smoothstep((np.float32(neck.skin) - depth + 0.25 * noise["sway"]) / 0.4)
    canvas.paint(weight, -2.5 + 3.5 * noise["threads"], 0.6)
    canvas.interface(depth - np.float32(neck.skin) - 0.25 * noise["sway"], 0.3, 1.7, np.clip(0.7 + 0.4 * noise["fibres"], 0, 1))
    for ring, strength in ((0.3, 1.6), (0.8, 0.9), (1.3, 0.5)):
        canvas.interface(depth - np.float32(ring) + 0 * canvas.echo, 0.2, strength, np.float32(1.0))
