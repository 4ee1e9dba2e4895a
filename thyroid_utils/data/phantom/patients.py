"""What is drawn once for a patient and once for a view: the description that anatomy and scanner turn into a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from thyroid_utils.data.phantom.draws import Draws
from thyroid_utils.data.phantom.scanners import Scanner, echo_area
from thyroid_utils.data.phantom.traits import Traits, sample_traits

# First name of each stream of draws after the seed, so that a change in one never shifts another.
PATIENT, TISSUE, TEXTURES, VIEW, NEW_SCATTER, NOISE = range(6)


@dataclass(frozen=True)
class Nodule:
    """One nodule; positions and lengths in mm, angles in radians.

    `x`, `y` centre (lateral from the midline, depth); `across`, `deep` half axes; `waves` (order, relative amplitude, phase) of
    its outline; `echo` dB relative to the gland; `softness` of its edge in mm; `variation` inside in dB.
    """

    x: float
    y: float
    across: float
    deep: float
    turn: float
    waves: tuple[tuple[int, float, float], ...]
    echo: float
    softness: float
    variation: float
    halo: bool
    detail: int


@dataclass(frozen=True)
class Neck:
    """A neck in millimetres; lateral positions from the midline towards the imaged lobe, depths from the skin.

    Depths: `skin`, `fat`, `strap` are the lower edges of the layers at the midline. The other pairs are centres or half axes.
    """

    skin: float
    fat: float
    strap: float
    arch: float
    isthmus: float
    trachea: tuple[float, float]
    lobe: tuple[float, float]
    lobe_axes: tuple[float, float]
    lobe_turn: float
    carotid: tuple[float, float, float]
    jugular: tuple[float, float, float, float]
    spine: float
    gland_echo: float
    gland_variation: float
    muscle_echo: float
    fat_echo: float


@dataclass(frozen=True)
class Patient:
    """A patient: class, traits, the anatomy, and the scanner used."""

    number: int
    label: int
    traits: Traits
    age: int
    sex: str
    side: str
    plane: str
    scanner: Scanner
    depth: float
    neck: Neck
    nodule: Nodule
    views: int
    callipers: bool
    centre: float
    gain: float
    loose_edge: int
    penetration: float


@dataclass(frozen=True)
class View:
    """One frame of a patient: where the probe is (mm, relative to the patient's usual place), its gain and callipers."""

    number: int
    shift: tuple[float, float]
    tilt: float
    stretch: float
    gain: float
    focus: float
    same_scatter: float
    callipers: bool


def label_of(number: int, seed: int, malignant_share: float) -> int:
    """Class of a patient: of the first n patients, n × `malignant_share` are malignant (± 1), whatever n is.

    Dealt like this and not by chance, because a teaching set of ten patients needs both classes.
    """
    offset = Draws(seed, PATIENT).uniform()
    return int(math.floor((number + 1) * malignant_share + offset) - math.floor(number * malignant_share + offset))


_ECHO = {
    "anechoic": (-34, 1),
    "hyperechoic": (5.5, 0.8),
    "isoechoic": (0.3, 0.8),
    "hypoechoic": (-6.2, 1),
    "markedly hypoechoic": (-12, 1),
}


def _waves(draws: Draws, traits: Traits) -> tuple[tuple[int, float, float], ...]:
    """Outline as waves around an ellipse: low orders bend it a little, higher ones make lobules."""
    waves = [(order, draws.uniform(0.01, 0.08), draws.uniform(0, 2 * math.pi)) for order in (2, 3)]
    if traits.margin in ("lobulated", "extrathyroidal"):
        heights = {3: 0.06, 4: 0.075, 5: 0.085, 6: 0.07, 7: 0.055, 9: 0.04}
        part = 1.0 if traits.margin == "lobulated" else 0.45
        waves += [(k, part * height * draws.uniform(0.5, 1.25), draws.uniform(0, 2 * math.pi)) for k, height in heights.items()]
    else:
        waves += [(4, draws.uniform(0, 0.02), draws.uniform(0, 2 * math.pi))]
    return tuple(waves)


def _sample_nodule(draws: Draws, traits: Traits, plane: str) -> Nodule:
    """Nodule with its centre relative to the lobe's: `_place` puts it into the neck."""
    size = min(max(6.2 * math.exp(draws.normal(0, 0.38)), 3.0), 12.0)
    tall = traits.shape == "taller than wide"
    ratio = draws.uniform(1.12, 1.5) if tall else draws.uniform(0.58, 0.92)
    if plane == "longitudinal" and not tall:
        ratio *= 0.9
    across, deep = size / math.sqrt(ratio), size * math.sqrt(ratio)
    echo, spread = _ECHO[traits.echogenicity]
    return Nodule(
        x=draws.uniform(-1, 1),
        y=draws.uniform(-1, 1),
        across=across,
        deep=deep,
        turn=draws.uniform(-0.12, 0.12) if tall else draws.uniform(-0.25, 0.25),
        waves=_waves(draws, traits),
        echo=draws.normal(echo, spread),
        softness=draws.uniform(1.6, 2.6) if traits.margin == "ill-defined" else draws.uniform(0.25, 0.5),
        variation=draws.uniform(0.8, 2.6),
        halo=traits.margin == "smooth" and draws.chance(0.85 if traits.echogenicity == "isoechoic" else 0.35),
        detail=draws.whole(0, 2**31),
    )


def _sample_neck(draws: Draws, nodule: Nodule, plane: str) -> Neck:
    skin = draws.uniform(1.3, 2.0)
    fat = skin + draws.uniform(1.2, 4.5)
    strap = fat + draws.uniform(2.6, 5.0)
    isthmus = draws.uniform(2.2, 4.0)
    trachea_radius = draws.uniform(7.8, 9.5)
    across, deep = draws.uniform(7.5, 10.5), draws.uniform(7.0, 9.5)
    if plane == "longitudinal":
        across = draws.uniform(21, 27)
    across, deep = max(across, 1.12 * nodule.across + 1.2), max(deep, 1.12 * nodule.deep + 1.0)
    lobe = (trachea_radius + 0.8 * across if plane != "longitudinal" else 0.0, strap + deep - draws.uniform(0.2, 1.2))
    carotid = lobe[0] + across + draws.uniform(3.0, 5.0)
    return Neck(
        skin=skin,
        fat=fat,
        strap=strap,
        arch=draws.uniform(0.0006, 0.0028),
        isthmus=isthmus,
        trachea=(strap + isthmus + trachea_radius + draws.uniform(-0.3, 0.8), trachea_radius),
        lobe=lobe,
        lobe_axes=(across, deep),
        lobe_turn=draws.uniform(-0.22, 0.1) if plane != "longitudinal" else draws.uniform(-0.05, 0.05),
        carotid=(carotid, lobe[1] + draws.uniform(0.5, 4.5), draws.uniform(2.7, 3.6)),
        jugular=(
            carotid + draws.uniform(3.5, 5.5),
            lobe[1] - draws.uniform(1.5, 4.0),
            draws.uniform(3.0, 5.5),
            draws.uniform(1.0, 3.0),
        ),
        spine=lobe[1] + deep + draws.uniform(5.0, 9.0),
        gland_echo=draws.normal(1.0, 1.6),
        gland_variation=abs(draws.normal(1.5, 0.6)),
        muscle_echo=draws.normal(-9.5, 1.2),
        fat_echo=draws.normal(-6.5, 1.5),
    )


def _place(draws: Draws, nodule: Nodule, neck: Neck, traits: Traits, plane: str) -> Nodule:
    """The nodule inside its lobe; an extrathyroidal one reaches through the lobe's front."""
    room_x = max(neck.lobe_axes[0] - nodule.across - 1.0, 0) * (0.35 if plane == "longitudinal" else 0.75)
    room_y = max(neck.lobe_axes[1] - nodule.deep - 0.8, 0) * 0.75
    y = neck.lobe[1] + nodule.y * room_y
    if traits.margin == "extrathyroidal":
        y = neck.lobe[1] - neck.lobe_axes[1] + nodule.deep * draws.uniform(0.5, 0.7)
        return replace(nodule, x=neck.lobe[0] + nodule.x * room_x * 0.4, y=y)
    return replace(nodule, x=neck.lobe[0] + nodule.x * room_x, y=y)


def sample_patient(
    number: int,
    seed: int,
    scanners: Sequence[Scanner],
    malignant_share: float,
    calliper_bias: float,
    views: tuple[int, int],
) -> Patient:
    """Draw patient `number` (from 0) of a set; the arguments are those of `phantom_cases`."""
    draws = Draws(seed, PATIENT, number)
    label = label_of(number, seed, malignant_share)
    traits = sample_traits(draws, label)
    sex = "F" if draws.chance(0.78) else "M"
    age = round(min(max(draws.normal(52, 14), 18), 88))
    plane = "longitudinal" if draws.chance(0.25) else "transverse"
    scanner = scanners[draws.whole(0, len(scanners) - 1)]
    count = draws.whole(*views)
    callipers = draws.chance(0.3 + calliper_bias * (label - 0.5))
    nodule = _sample_nodule(draws, traits, plane)
    neck = _sample_neck(draws, nodule, plane)
    nodule = _place(draws, nodule, neck, traits, plane)
    deepest = max(neck.lobe[1] + neck.lobe_axes[1] + draws.uniform(9, 22), 38.0)
    return Patient(
        number=number,
        label=label,
        traits=traits,
        age=age,
        sex=sex,
        side=draws.pick({"right": 0.52, "left": 0.48}),
        plane=plane,
        scanner=scanner,
        depth=min(deepest, 58.0),
        neck=neck,
        nodule=nodule,
        views=count,
        callipers=callipers,
        centre=nodule.x + draws.uniform(-5, 5)
        if plane == "longitudinal"
        else 0.55 * nodule.x + 0.45 * neck.lobe[0] + draws.uniform(-6, 4),
        gain=draws.normal(0, 2.0),
        loose_edge=draws.pick({0: 0.84, -1: 0.08, 1: 0.08}),
        penetration=draws.uniform(-0.01, 0.08),
    )


def sample_view(patient: Patient, number: int, seed: int) -> View:
    """Draw view `number` (from 0) of a patient: a small movement of the probe, a touch of gain, the tissue nearly the same."""
    draws = Draws(seed, VIEW, patient.number, number)
    return View(
        number=number,
        shift=(draws.normal(0, 0.45), draws.normal(0, 0.2)),
        tilt=draws.normal(0, 0.008),
        stretch=draws.normal(1.0, 0.006),
        gain=patient.gain + draws.normal(0, 0.5),
        focus=patient.nodule.y + draws.uniform(-3, 3),
        same_scatter=draws.uniform(0.92, 0.98),
        callipers=patient.callipers and draws.chance(0.75),
    )


def spacing_of(patient: Patient, size: int) -> float:
    """mm a pixel: the echo area shows the patient's imaging depth."""
    top, bottom, _, _ = echo_area(patient.scanner, size)
    return patient.depth / (bottom - top)
