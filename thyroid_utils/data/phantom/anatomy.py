"""The neck as tissue maps (skin, fat, muscles, gland, trachea with its shadow, vessels, spine), each TI-RADS trait as tissue."""

import math

import numpy as np

from thyroid_utils.data.phantom.canvas import Canvas, Shape, ellipse, smoothstep, texture
from thyroid_utils.data.phantom.imaging import Tissue
from thyroid_utils.data.phantom.patients import NODULE, TEXTURES, Neck, Nodule, Patient, Settings, Traits, View

_FLUID = 0.12  # dB/cm/MHz
# Name of a texture → (lateral, axial) distance of its knots in mm: of the neck, and of a nodule's inside.
_CELLS = {
    "broad": (7.0, 5.0), "patchy": (2.6, 2.2), "fine": (0.9, 0.8), "fibres": (6.0, 0.8), "threads": (7.0, 0.45),
    "bend": (9.0, 11.0), "sway": (13.0, 9.0),
}  # fmt: skip
_INNER_CELLS = {"coarse": (2.4, 2.0), "medium": (1.2, 1.0), "sponge": (0.6, 0.48)}


def build_scene(
    patient: Patient, view: View, shape: tuple[int, int], spacing: float, settings: Settings
) -> tuple[Tissue, np.ndarray]:
    """Paint what the probe sees in this view.

    Args:
        patient, view: descriptions; the left lobe is painted mirrored.
        shape: (height, width) of the echo area in pixels.
        spacing: mm a pixel.
        settings: of the set.

    Returns:
        the tissue, and the nodule's mask, bool (height, width).
    """
    height, width = shape
    lateral = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * (spacing * view.stretch)
    lateral += patient.centre + view.shift[0]
    axial = (np.arange(height, dtype=np.float32) + 0.5) * (spacing * view.stretch) + view.shift[1]
    random = settings.random(TEXTURES, patient.number)
    noise = {name: texture(random, cell, lateral, axial) for name, cell in _CELLS.items()}
    canvas = Canvas.blank(lateral, axial, view.tilt, spacing, noise)
    neck = patient.neck
    _paint_deep(canvas, neck, patient.plane)
    _paint_layers(canvas, neck, patient.plane)
    _paint_gland(canvas, neck, patient.plane)
    if patient.plane == "transverse":
        _paint_trachea(canvas, neck)
        _paint_vessels(canvas, neck, patient.side)
    nodule = _paint_nodule(canvas, patient.nodule, patient.traits, neck.gland_echo, settings.random(NODULE, patient.number))
    _paint_skin(canvas, neck)
    # Uneven contact and fat dim some scan lines all the way down, and a probe may lift off the skin at one edge.
    for strength, cell in ((1.1, 1.4), (1.6, 5.0)):
        canvas.shadow[0] += strength * texture(random, (cell, 80.0), lateral, axial[:1])[0]
    if patient.loose_edge:
        loss = 32 * smoothstep(1 - np.arange(0.5, width) / (0.16 * width))
        canvas.shadow[0] += loss[:: -patient.loose_edge]
    canvas.attenuation += patient.penetration
    maps = [canvas.echo, canvas.attenuation, canvas.shadow, canvas.specular, nodule]
    if patient.side == "left":
        maps = [np.ascontiguousarray(values[:, ::-1]) for values in maps]
    return Tissue(*maps[:4]), maps[4]


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
    echo = neck.muscle_echo - 1.0 + 6.5 * np.maximum(noise["threads"] - 0.1, 0) + 1.5 * noise["patchy"]
    canvas.paint(muscle.inside(0.5), echo, 0.75)
    canvas.interface(muscle.distance, 0.45, 1.2, muscle.facing * np.clip(0.4 + 0.6 * noise["fibres"], 0, 1))
    spine = canvas.y - neck.spine - 1.3 * noise["sway"] - 0.6 * noise["bend"]
    bone = np.clip(0.45 + 0.6 * noise["broad"] + 0.3 * noise["patchy"], 0, 1)
    canvas.interface(spine, 0.8, 2.4, bone)
    canvas.echo += smoothstep(1.2 - np.abs(spine)) * bone * (8.0 + 2 * noise["patchy"])
    canvas.paint(smoothstep(spine), -9.0 + 2 * noise["broad"], 1.2)


def _paint_layers(canvas: Canvas, neck: Neck, plane: str) -> None:
    """Strap and sternomastoid muscles over the gland, fat above them, each with its bright fascia."""
    noise = canvas.noise
    arch = neck.arch if plane == "transverse" else 0
    depth = canvas.y - arch * canvas.x**2 - 0.55 * noise["sway"]
    threads = np.maximum(noise["threads"] - 0.35, 0)
    strap_bottom = depth - neck.strap
    muscle = neck.muscle_echo + 7.0 * threads + 0.7 * noise["patchy"]
    canvas.paint(smoothstep(0.5 - strap_bottom / 0.6), muscle, 0.7)
    canvas.interface(strap_bottom, 0.3, 1.5, np.clip(0.6 + 0.5 * noise["fibres"], 0, 1))
    between = depth - (0.45 * neck.fat + 0.55 * neck.strap) - 0.35 * noise["bend"]
    canvas.interface(between, 0.22, 1.0, np.clip(0.5 + 0.6 * noise["fibres"], 0, 1))
    if plane == "transverse":
        mastoid = ellipse(canvas, neck.lobe[0] + neck.lobe_axes[0] + 8.0, neck.strap + 1.2, 15.0, 4.6, 0.18)
        canvas.paint(mastoid.inside(0.5), muscle + 0.8, 0.7)
        canvas.interface(mastoid.distance, 0.35, 1.6, 0.2 + 0.8 * mastoid.facing)
    fat_bottom = depth - neck.fat
    septa = 7.0 * np.maximum(noise["threads"] - 0.3, 0)
    canvas.paint(smoothstep(0.5 - fat_bottom / 0.5), neck.fat_echo + septa + 1.2 * noise["patchy"], 0.55)
    canvas.interface(fat_bottom, 0.3, 1.7, np.clip(0.65 + 0.45 * noise["fibres"], 0, 1))


def _paint_gland(canvas: Canvas, neck: Neck, plane: str) -> None:
    """Both lobes and the isthmus before the trachea, or one lobe along its length."""
    noise = canvas.noise
    echo = neck.gland_echo + neck.gland_variation * (noise["patchy"] + 0.8 * noise["broad"]) + 0.5 * noise["fine"]
    lobes = [ellipse(canvas, *neck.lobe, *neck.lobe_axes, neck.lobe_turn, bend=0.05 if plane == "transverse" else 0.03)]
    if plane == "transverse":
        lobes.append(ellipse(canvas, -neck.lobe[0] - 1.0, neck.lobe[1], 8.5, 8.0, -neck.lobe_turn, bend=0.05))
        depth, radius = neck.trachea
        ring = ellipse(canvas, 0.0, depth, radius + 0.5 + neck.isthmus, radius + 0.3 + neck.isthmus, 0.0)
        canvas.paint(ring.inside(0.3) * smoothstep((depth - 0.1 * radius - canvas.y) / 2.0), echo, 0.55)
        canvas.interface(ring.distance, 0.25, 1.0, ring.facing * (canvas.y < depth - 0.5 * radius))
    for lobe in lobes:
        canvas.paint(lobe.inside(0.35), echo, 0.55)
        canvas.interface(lobe.distance - 0.1, 0.28, 1.4, (0.2 + 0.8 * lobe.facing) * np.clip(0.7 + 0.4 * noise["fibres"], 0, 1))


def _paint_trachea(canvas: Canvas, neck: Neck) -> None:
    """Dark cartilage ring, bright air surface, and behind it a shadow that repeats the surface ever fainter."""
    depth, radius = neck.trachea
    noise = canvas.noise
    wall = ellipse(canvas, 0.0, depth, radius, radius)
    canvas.paint(wall.inside(0.3), -9.0 + noise["patchy"], 0.9)
    air = ellipse(canvas, 0.0, depth, radius - 1.5, radius - 1.5, 0.0)
    inward = -air.distance
    phase = inward / 2.3 - np.rint(inward / 2.3)
    repeats = np.maximum(1 - np.abs(phase) * 4, 0) * np.maximum(9.0 - 1.1 * inward, 0) * air.facing * air.facing
    canvas.paint(air.inside(0.2), -15.0 - 0.7 * inward + 2 * noise["broad"] + repeats, 0.55)
    front = np.clip(air.facing * 1.3 - 0.25, 0, 1) * (canvas.y < depth)
    canvas.echo += smoothstep(1.3 - np.abs(air.distance) / 0.55) * front * (15.0 + 4 * noise["patchy"])
    canvas.interface(air.distance, 0.5, 4.0, front * np.clip(0.75 + 0.4 * noise["patchy"], 0.2, 1.2))
    # The air column casts a shadow on all that lies under the trachea; what is left are the repeated echoes.
    shade = (canvas.y > depth + 0.2 * radius) * smoothstep((radius - 0.8 - np.abs(canvas.x)) / 1.2)
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
    depth = (np.arange(canvas.echo.shape[0], dtype=np.float32)[:, None] + 0.5) * canvas.spacing
    noise = canvas.noise
    edge = depth - neck.skin - 0.25 * noise["sway"]
    canvas.paint(smoothstep(-edge / 0.4), -2.5 + 3.5 * noise["threads"], 0.6)
    canvas.interface(edge, 0.3, 1.7, np.clip(0.7 + 0.4 * noise["fibres"], 0, 1))
    for ring, strength in ((0.3, 1.6), (0.8, 0.9), (1.3, 0.5)):
        canvas.interface(depth - ring, 0.2, strength, 1.0)


def _paint_nodule(canvas: Canvas, nodule: Nodule, traits: Traits, gland_echo: float, random: np.random.Generator) -> np.ndarray:
    """Paint a nodule over the gland and return its mask, boolean (height, width).

    `gland_echo` (dB) is what the nodule's echogenicity is relative to. The mask is the outline itself, without halo; where the
    edge is ill-defined it runs through the middle of the transition.
    """
    mask = np.zeros(canvas.echo.shape, bool)
    bulge = 1 + sum(height for _, height, _ in nodule.waves)
    canvas = canvas.around(nodule.x, nodule.y, nodule.across * bulge, nodule.deep * bulge)
    noise = canvas.noise
    lateral, axial = canvas.lateral - nodule.x, canvas.axial - nodule.y + 20
    inner = {name: texture(random, cell, lateral, axial) for name, cell in _INNER_CELLS.items()}
    outline = ellipse(canvas, nodule.x, nodule.y, nodule.across, nodule.deep, nodule.turn, waves=nodule.waves)
    if nodule.halo:
        ring = np.maximum(1 - np.abs(outline.distance - 0.35) / 0.75, 0)
        canvas.echo -= ring * 9.0 * np.clip(0.85 + 0.35 * noise["broad"], 0.2, 1.2)
        canvas.specular *= 1 - smoothstep(ring * 2)
    patchy, fine = (0.5, 0.4) if traits.margin == "ill-defined" else (0.12, 0.13)
    ragged = outline.distance + patchy * noise["patchy"] + fine * noise["fine"]
    weight = smoothstep(0.5 - ragged / nodule.softness)
    if traits.composition == "cystic":
        _paint_cyst(canvas, outline, weight, nodule, inner["coarse"])
    else:
        level = gland_echo + nodule.echo + nodule.variation * (0.8 * inner["coarse"] + 0.6 * inner["medium"])
        canvas.paint(weight, level, 0.7 if "hypoechoic" in traits.echogenicity else 0.58)
    if traits.composition == "mixed":
        _paint_pockets(canvas, outline, nodule, random)
    elif traits.composition == "spongiform":
        _paint_sponge(canvas, outline, inner["sponge"])
    canvas.edge_shadow(outline, 0.7 if traits.margin == "smooth" else 0.15)
    _paint_foci(canvas, outline, nodule, traits.foci, random)
    mask[canvas.place] = outline.mask
    return mask


def _paint_cyst(canvas: Canvas, outline: Shape, weight: np.ndarray, nodule: Nodule, coarse: np.ndarray) -> None:
    """Fluid with a thin wall; reverberation haze under the front wall, and debris that settles at the back."""
    depth = (canvas.y - nodule.y) / nodule.deep
    haze = 9.0 * smoothstep((-depth - 0.35) / 0.6) + 5.0 * smoothstep((depth - 0.55) / 0.4)
    canvas.paint(weight, nodule.echo + haze + 1.5 * coarse, _FLUID)
    canvas.interface(outline.distance - 0.1, 0.3, 2.2, outline.facing * outline.facing)


def _paint_pockets(canvas: Canvas, outline: Shape, nodule: Nodule, random: np.random.Generator) -> None:
    """One to four pockets of fluid in a solid nodule."""
    within = smoothstep((-outline.distance - 0.7) / 0.4)
    for _ in range(random.integers(1, 5)):
        x, y = _place_in(nodule, random, random.uniform(0.1, 0.5))
        size = random.uniform(0.22, 0.48)
        across, deep = nodule.across * size * random.uniform(0.8, 1.3), nodule.deep * size
        waves = tuple((order, random.uniform(0.02, 0.14), random.uniform(0, 2 * math.pi)) for order in (2, 3, 4))
        pocket = ellipse(canvas, x, y, across, deep, random.uniform(-0.4, 0.4), waves=waves)
        canvas.paint(pocket.inside(0.5) * within, -30.0, _FLUID)
        canvas.interface(pocket.distance - 0.2, 0.3, 1.1, pocket.facing * pocket.facing * within)


def _paint_sponge(canvas: Canvas, outline: Shape, sponge: np.ndarray) -> None:
    """Tiny fluid spaces between bright septa in more than half of the nodule."""
    within = smoothstep((-outline.distance - 0.2) / 0.5)
    spaces = smoothstep((sponge + 0.3) / 0.6)
    canvas.paint(spaces * within, -15.0, 0.35)
    canvas.echo += within * (1 - spaces) * 2.5
    canvas.specular += within * np.maximum(1 - np.abs(sponge + 0.3) * 4, 0) * 0.8


def _place_in(nodule: Nodule, random: np.random.Generator, out: float) -> tuple[float, float]:
    """A point in a random direction from the nodule's centre, `out` of the way to its outline."""
    angle = random.uniform(0, 2 * math.pi)
    return nodule.x + math.cos(angle) * out * nodule.across, nodule.y + math.sin(angle) * out * nodule.deep


def _spot(canvas: Canvas, x: float, y: float, across: float) -> np.ndarray:
    """A soft flat spot, 1 at its centre and 0 beyond its half axes, which are at least a pixel."""
    least = 1.1 * canvas.spacing
    u, v = (canvas.x - x) / max(across, least), (canvas.y - y) / max(0.2, least)
    return np.maximum(1 - u * u - v * v, 0)


def _paint_foci(canvas: Canvas, outline: Shape, nodule: Nodule, foci: str, random: np.random.Generator) -> None:
    """Echogenic foci: punctate ones spread over the nodule, comet tails, lumps of calcium that shadow, or a calcified rim."""
    if foci == "punctate":
        for _ in range(random.integers(7, 19)):
            x, y = _place_in(nodule, random, 0.75 * math.sqrt(random.random()))
            spot = _spot(canvas, x, y, random.uniform(0.22, 0.4))
            canvas.echo += spot * 12
            canvas.specular += spot * random.uniform(4.5, 8.0)
    elif foci == "comet-tail":
        for _ in range(random.integers(1, 4)):
            x, y = _place_in(nodule, random, 0.6 * math.sqrt(random.random()))
            for step in range(6):
                canvas.specular += _spot(canvas, x, y + 0.3 * step, 0.34 - 0.04 * step) * (5.0 - 0.8 * step)
    elif foci == "macrocalcification":
        for _ in range(random.integers(1, 3)):
            x, y = _place_in(nodule, random, 0.4 * math.sqrt(random.random()))
            across, deep, turn = random.uniform(0.9, 2.0), random.uniform(0.5, 0.8), random.uniform(-0.3, 0.3)
            lump = ellipse(canvas, x, y, across, deep, turn, waves=((3, 0.2, 1.0), (5, 0.12, 2.0)))
            canvas.echo += lump.inside(0.3) * (15.0 - canvas.echo)
            canvas.interface(lump.distance, 0.35, 8.0, lump.facing)
            canvas.shadow += lump.inside(0.3) * (13.0 * canvas.spacing)
    elif foci == "rim":
        arcs = np.clip(0.75 + 1.1 * canvas.noise["broad"], 0, 1)
        shell = np.maximum(1 - np.abs(outline.distance + 0.25) / 0.6, 0)
        canvas.echo += shell * arcs * 15.0
        canvas.interface(outline.distance + 0.25, 0.4, 6.0, arcs * (0.25 + 0.75 * outline.facing))
        canvas.shadow += shell * arcs * (9.0 * canvas.spacing)
