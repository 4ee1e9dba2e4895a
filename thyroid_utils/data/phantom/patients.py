"""What is drawn once for a patient and once for a view: class, traits, neck, nodule, and how the probe is held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.canvas import Waves
from thyroid_utils.data.phantom.scanners import SCANNERS, Scanner, find_scanners
from thyroid_utils.data.phantom.traits import Traits, sample_traits

# First name of each stream of random numbers, so that a change in one never shifts another.
SET, PATIENT, TISSUE, TEXTURES, NODULE, VIEW = range(6)

# Echogenicity → mean and SD of a nodule's echo, dB relative to the gland.
_ECHO = {
    "anechoic": (-34, 1),
    "hyperechoic": (5.5, 0.8),
    "isoechoic": (0.3, 0.8),
    "hypoechoic": (-6.2, 1),
    "markedly hypoechoic": (-12, 1),
}
# What makes an outline lobulated: order → height of a wave.
_LOBULES = {3: 0.06, 4: 0.075, 5: 0.085, 6: 0.07, 7: 0.055, 9: 0.04}


@dataclass(frozen=True)
class Settings:
    """What decides the pixels of a set; the fields are explained in `phantom_cases`. DataError where one is out of range."""

    size: int = 256
    seed: int = 0
    scanners: Sequence[str] = tuple(SCANNERS)
    malignant_share: float = 0.4
    calliper_bias: float = 0.0
    views: tuple[int, int] = (1, 6)

    def __post_init__(self):
        if not (isinstance(self.size, Integral) and 64 <= self.size <= 1024):
            raise DataError(f"phantom: size is {self.size}, expected a whole number of pixels from 64 to 1024")
        if not (isinstance(self.seed, Integral) and self.seed >= 0):
            raise DataError(f"phantom: seed is {self.seed}, expected a whole number from 0")
        if not 0 <= self.malignant_share <= 1:
            raise DataError(f"phantom: malignant_share is {self.malignant_share}, expected 0 to 1")
        if not -0.6 <= self.calliper_bias <= 0.6:
            raise DataError(f"phantom: calliper_bias is {self.calliper_bias}, expected -0.6 to 0.6")
        views = tuple(self.views) if isinstance(self.views, Sequence) else ()
        if len(views) != 2 or not 1 <= views[0] <= views[1] <= 6:
            raise DataError(f"phantom: views is {self.views}, expected (fewest, most) from 1 to 6")
        find_scanners(self.scanners)

    def random(self, *names: int) -> np.random.Generator:
        """The stream of random numbers of these names: a purpose and the numbers of patient and view."""
        return np.random.default_rng(np.random.SeedSequence(int(self.seed), spawn_key=names))


@dataclass(frozen=True)
class Nodule:
    """One nodule; positions and lengths in mm, angles in radians.

    `x`, `y` centre (lateral from the midline, depth); `across`, `deep` half axes; `waves` of its outline; `echo` dB relative to
    the gland; `softness` of its edge in mm; `variation` inside in dB.
    """

    x: float
    y: float
    across: float
    deep: float
    turn: float
    waves: Waves
    echo: float
    softness: float
    variation: float
    halo: bool


@dataclass(frozen=True)
class Neck:
    """A neck in millimetres; lateral positions from the midline towards the imaged lobe, depths from the skin.

    Depths: `skin`, `fat`, `strap` are the lower edges of the layers at the midline. The tuples are a centre, half axes, or both;
    the trachea's are the depth of its centre and its radius.
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
    """A patient: class, traits, the anatomy, and the scanner used, with its imaging `depth` in mm."""

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

    def spacing(self, size: int) -> float:
        """mm a pixel of a frame of `size` pixels: its echo area shows the imaging depth."""
        top, bottom, _, _ = self.scanner.echo_area(size)
        return self.depth / (bottom - top)


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


def label_of(number: int, settings: Settings) -> int:
    """Class of a patient: of the first n patients, n × `malignant_share` are malignant (± 1), whatever n is.

    Dealt like this and not by chance, because a teaching set of ten patients needs both classes.
    """
    offset = settings.random(SET).random()
    share = settings.malignant_share
    return math.floor((number + 1) * share + offset) - math.floor(number * share + offset)


def _waves(random: np.random.Generator, margin: str) -> Waves:
    """Outline as waves around an ellipse: low orders bend it a little, higher ones make lobules."""
    heights = [(2, random.uniform(0.01, 0.08)), (3, random.uniform(0.01, 0.08))]
    if margin in ("lobulated", "extrathyroidal"):
        part = 1.0 if margin == "lobulated" else 0.45
        heights += [(order, part * height * random.uniform(0.5, 1.25)) for order, height in _LOBULES.items()]
    else:
        heights += [(4, random.uniform(0, 0.02))]
    return tuple((order, height, random.uniform(0, 2 * math.pi)) for order, height in heights)


def _sample_nodule(random: np.random.Generator, traits: Traits, plane: str) -> Nodule:
    """Nodule with its centre relative to the lobe's, -1 to 1: `_place` puts it into the neck."""
    size = min(max(6.2 * math.exp(random.normal(0, 0.38)), 3.0), 12.0)
    tall = traits.shape == "taller than wide"
    ratio = random.uniform(1.12, 1.5) if tall else random.uniform(0.58, 0.92)
    if plane == "longitudinal" and not tall:
        ratio *= 0.9
    return Nodule(
        x=random.uniform(-1, 1),
        y=random.uniform(-1, 1),
        across=size / math.sqrt(ratio),
        deep=size * math.sqrt(ratio),
        turn=random.uniform(-0.12, 0.12) if tall else random.uniform(-0.25, 0.25),
        waves=_waves(random, traits.margin),
        echo=random.normal(*_ECHO[traits.echogenicity]),
        softness=random.uniform(1.6, 2.6) if traits.margin == "ill-defined" else random.uniform(0.25, 0.5),
        variation=random.uniform(0.8, 2.6),
        halo=traits.margin == "smooth" and random.random() < (0.85 if traits.echogenicity == "isoechoic" else 0.35),
    )


def _sample_neck(random: np.random.Generator, nodule: Nodule, plane: str) -> Neck:
    transverse = plane == "transverse"
    skin = random.uniform(1.3, 2.0)
    fat = skin + random.uniform(1.2, 4.5)
    strap = fat + random.uniform(2.6, 5.0)
    isthmus = random.uniform(2.2, 4.0)
    radius = random.uniform(7.8, 9.5)
    across = max(random.uniform(7.5, 10.5) if transverse else random.uniform(21, 27), 1.12 * nodule.across + 1.2)
    deep = max(random.uniform(7.0, 9.5), 1.12 * nodule.deep + 1.0)
    x = radius + 0.8 * across if transverse else 0.0
    y = strap + deep - random.uniform(0.2, 1.2)
    carotid = x + across + random.uniform(3.0, 5.0)
    vein = carotid + random.uniform(3.5, 5.5), y - random.uniform(1.5, 4.0)
    return Neck(
        skin=skin,
        fat=fat,
        strap=strap,
        arch=random.uniform(0.0006, 0.0028),
        isthmus=isthmus,
        trachea=(strap + isthmus + radius + random.uniform(-0.3, 0.8), radius),
        lobe=(x, y),
        lobe_axes=(across, deep),
        lobe_turn=random.uniform(-0.22, 0.1) if transverse else random.uniform(-0.05, 0.05),
        carotid=(carotid, y + random.uniform(0.5, 4.5), random.uniform(2.7, 3.6)),
        jugular=(*vein, random.uniform(3.0, 5.5), random.uniform(1.0, 3.0)),
        spine=y + deep + random.uniform(5.0, 9.0),
        gland_echo=random.normal(1.0, 1.6),
        gland_variation=abs(random.normal(1.5, 0.6)),
        muscle_echo=random.normal(-9.5, 1.2),
        fat_echo=random.normal(-6.5, 1.5),
    )


def _place(random: np.random.Generator, nodule: Nodule, neck: Neck, traits: Traits, plane: str) -> Nodule:
    """The nodule inside its lobe; an extrathyroidal one reaches through the lobe's front."""
    (x, y), (across, deep) = neck.lobe, neck.lobe_axes
    room_x = max(across - nodule.across - 1.0, 0) * (0.35 if plane == "longitudinal" else 0.75)
    room_y = max(deep - nodule.deep - 0.8, 0) * 0.75
    if traits.margin == "extrathyroidal":
        return replace(nodule, x=x + nodule.x * room_x * 0.4, y=y - deep + nodule.deep * random.uniform(0.5, 0.7))
    return replace(nodule, x=x + nodule.x * room_x, y=y + nodule.y * room_y)


def sample_patient(number: int, settings: Settings) -> Patient:
    """Draw patient `number` (from 0) of a set."""
    random = settings.random(PATIENT, number)
    label = label_of(number, settings)
    traits = sample_traits(random, label)
    plane = "longitudinal" if random.random() < 0.25 else "transverse"
    drawn = _sample_nodule(random, traits, plane)
    neck = _sample_neck(random, drawn, plane)
    nodule = _place(random, drawn, neck, traits, plane)
    beside = 0.55 * nodule.x + 0.45 * neck.lobe[0]
    return Patient(
        number=number,
        label=label,
        traits=traits,
        age=round(min(max(random.normal(52, 14), 18), 88)),
        sex="F" if random.random() < 0.78 else "M",
        side="right" if random.random() < 0.52 else "left",
        plane=plane,
        scanner=random.choice(find_scanners(settings.scanners)),
        depth=min(max(neck.lobe[1] + neck.lobe_axes[1] + random.uniform(9, 22), 38.0), 58.0),
        neck=neck,
        nodule=nodule,
        views=int(random.integers(*settings.views, endpoint=True)),
        callipers=random.random() < 0.3 + settings.calliper_bias * (label - 0.5),
        centre=beside + random.uniform(-6, 4) if plane == "transverse" else nodule.x + random.uniform(-5, 5),
        gain=random.normal(0, 2.0),
        loose_edge=int(random.choice([0, -1, 1], p=[0.84, 0.08, 0.08])),
        penetration=random.uniform(-0.01, 0.08),
    )


def sample_view(patient: Patient, number: int, settings: Settings) -> View:
    """Draw view `number` (from 0) of a patient: a small movement of the probe, a touch of gain, the tissue nearly the same."""
    random = settings.random(VIEW, patient.number, number)
    return View(
        number=number,
        shift=(random.normal(0, 0.45), random.normal(0, 0.2)),
        tilt=random.normal(0, 0.008),
        stretch=random.normal(1.0, 0.006),
        gain=patient.gain + random.normal(0, 0.5),
        focus=patient.nodule.y + random.uniform(-3, 3),
        same_scatter=random.uniform(0.92, 0.98),
        callipers=patient.callipers and random.random() < 0.75,
    )
