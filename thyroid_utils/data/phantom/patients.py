"""What is drawn once for a patient and once for a view: class, traits, neck, nodule, and how the probe is held.

Traits are drawn given the class: first the composition, then the others given composition and class. The frequencies are
orders of magnitude from the TI-RADS literature (Tessler et al., ACR TI-RADS, JACR 2017, doi 10.1016/j.jacr.2017.01.046),
adjusted together until the best possible reader of the traits has an AUC of 0.95: benign and malignant overlap.
Nothing else in a phantom (size, age, sex, scanner, place) depends on the class, callipers excepted where asked for.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path

import numpy as np

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.phantom.canvas import Waves
from thyroid_utils.data.phantom.imaging import SCANNERS, Scanner, find_scanners

# First name of each stream of random numbers, so that a change in one never shifts another.
SET, PATIENT, TISSUE, TEXTURES, NODULE, VIEW = range(6)

_TRAITS = tomllib.loads(Path(__file__).with_name("traits.toml").read_text(encoding="utf-8"))
POINTS: dict[str, dict[str, int]] = _TRAITS["points"]  # of ACR TI-RADS
# Frequencies of the traits in the order of POINTS, of the benign and of the malignant.
_COMPOSITION, _GIVEN_COMPOSITION = _TRAITS["frequencies"]["composition"], _TRAITS["frequencies"]["given"]
_ECHO = _TRAITS["echo"]  # echogenicity → mean and SD of a nodule's echo, dB relative to the gland
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
class Traits:
    """The five ACR TI-RADS categories of one nodule, in the words of `POINTS`."""

    composition: str
    echogenicity: str
    shape: str
    margin: str
    foci: str


def _pick(random: np.random.Generator, name: str, frequencies: Sequence[float]) -> str:
    weights = np.array(frequencies, float)
    return str(random.choice(list(POINTS[name]), p=weights / weights.sum()))


def sample_traits(random: np.random.Generator, label: int) -> Traits:
    """Draw the traits of a benign (0) or malignant (1) nodule."""
    composition = _pick(random, "composition", _COMPOSITION[label])
    others = {name: _pick(random, name, table[label]) for name, table in _GIVEN_COMPOSITION[composition].items()}
    return Traits(composition, **others)


def trait_probability(traits: Traits, label: int) -> float:
    """P(traits | class) in [0, 1]; 0 for a combination that does not occur, such as a cyst that is not anechoic."""
    tables = {"composition": _COMPOSITION, **_GIVEN_COMPOSITION[traits.composition]}
    probability = 1.0
    for name, table in tables.items():
        frequency = dict(zip(POINTS[name], table[label], strict=True))[getattr(traits, name)]
        probability *= frequency / sum(table[label])
    return probability


def malignancy_posterior(traits: Traits, malignant_share: float = 0.4) -> float:
    """P(malignant | traits) by Bayes' rule, in [0, 1]: what a reader who sees every trait perfectly would say.

    Args:
        traits: traits that occur together, as `sample_traits` draws them.
        malignant_share: prior probability of malignancy.
    """
    malignant = malignant_share * trait_probability(traits, 1)
    benign = (1 - malignant_share) * trait_probability(traits, 0)
    return malignant / (malignant + benign)


def tirads_level(traits: Traits) -> str:
    """TR1 (0 or 1 ACR TI-RADS points), TR2 (2), TR3 (3), TR4 (4 to 6) or TR5; a spongiform nodule scores 0 whatever it shows."""
    points = sum(POINTS[name][value] for name, value in asdict(traits).items())
    if traits.composition == "spongiform" or points < 2:
        return "TR1"
    return f"TR{points}" if points < 4 else "TR4" if points < 7 else "TR5"


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


class Nodule:
    """One nodule as it is drawn from its traits; positions and lengths in mm, angles in radians.

    `x`, `y` centre (lateral from the midline, depth), at first relative to the room in the lobe, -1 to 1; `across`, `deep` half
    axes; `waves` of its outline; `echo` dB relative to the gland; `softness` of its edge in mm; `variation` inside in dB.
    """

    def __init__(self, random: np.random.Generator, traits: Traits, plane: str):
        size = min(max(6.2 * math.exp(random.normal(0, 0.38)), 3.0), 12.0)
        tall = traits.shape == "taller than wide"
        ratio = random.uniform(1.12, 1.5) if tall else random.uniform(0.58, 0.92)
        if plane == "longitudinal" and not tall:
            ratio *= 0.9
        self.x, self.y = random.uniform(-1, 1), random.uniform(-1, 1)
        self.across, self.deep = size / math.sqrt(ratio), size * math.sqrt(ratio)
        self.turn = random.uniform(-0.12, 0.12) if tall else random.uniform(-0.25, 0.25)
        self.waves = _waves(random, traits.margin)
        self.echo = random.normal(*_ECHO[traits.echogenicity])
        self.softness = random.uniform(1.6, 2.6) if traits.margin == "ill-defined" else random.uniform(0.25, 0.5)
        self.variation = random.uniform(0.8, 2.6)
        self.halo = traits.margin == "smooth" and random.random() < (0.85 if traits.echogenicity == "isoechoic" else 0.35)

    def put_into(self, neck: Neck, random: np.random.Generator, margin: str, plane: str) -> None:
        """Move the centre into the lobe; an extrathyroidal nodule reaches through the lobe's front."""
        (x, y), (across, deep) = neck.lobe, neck.lobe_axes
        room_x = max(across - self.across - 1.0, 0) * (0.35 if plane == "longitudinal" else 0.75)
        room_y = max(deep - self.deep - 0.8, 0) * 0.75
        if margin == "extrathyroidal":
            self.x, self.y = x + self.x * room_x * 0.4, y - deep + self.deep * random.uniform(0.5, 0.7)
        else:
            self.x, self.y = x + self.x * room_x, y + self.y * room_y


class Neck:
    """A neck in millimetres, with room for a nodule; lateral positions from the midline towards the imaged lobe, depths from
    the skin.

    `skin`, `fat`, `strap` are the lower edges of the layers at the midline. The tuples are a centre, half axes, or both; the
    trachea's are the depth of its centre and its radius. Echoes in dB relative to an average gland.
    """

    def __init__(self, random: np.random.Generator, nodule: Nodule, plane: str):
        transverse = plane == "transverse"
        self.skin = random.uniform(1.3, 2.0)
        self.fat = self.skin + random.uniform(1.2, 4.5)
        self.strap = self.fat + random.uniform(2.6, 5.0)
        self.isthmus = random.uniform(2.2, 4.0)
        radius = random.uniform(7.8, 9.5)
        across = max(random.uniform(7.5, 10.5) if transverse else random.uniform(21, 27), 1.12 * nodule.across + 1.2)
        deep = max(random.uniform(7.0, 9.5), 1.12 * nodule.deep + 1.0)
        x = radius + 0.8 * across if transverse else 0.0
        y = self.strap + deep - random.uniform(0.2, 1.2)
        carotid = x + across + random.uniform(3.0, 5.0)
        vein = carotid + random.uniform(3.5, 5.5), y - random.uniform(1.5, 4.0)
        self.lobe, self.lobe_axes = (x, y), (across, deep)
        self.arch = random.uniform(0.0006, 0.0028)
        self.trachea = (self.strap + self.isthmus + radius + random.uniform(-0.3, 0.8), radius)
        self.lobe_turn = random.uniform(-0.22, 0.1) if transverse else random.uniform(-0.05, 0.05)
        self.carotid = (carotid, y + random.uniform(0.5, 4.5), random.uniform(2.7, 3.6))
        self.jugular = (*vein, random.uniform(3.0, 5.5), random.uniform(1.0, 3.0))
        self.spine = y + deep + random.uniform(5.0, 9.0)
        self.gland_echo = random.normal(1.0, 1.6)
        self.gland_variation = abs(random.normal(1.5, 0.6))
        self.muscle_echo = random.normal(-9.5, 1.2)
        self.fat_echo = random.normal(-6.5, 1.5)


class Patient:
    """Patient `number` (from 0) of a set: class, traits, anatomy, and the scanner used, with its imaging `depth` in mm.

    `centre` is the probe's usual place (mm from the midline), `loose_edge` the side where it lifts off the skin (-1, 1, or 0 for
    none), `penetration` dB/cm/MHz that the tissue takes beside the usual.
    """

    def __init__(self, number: int, settings: Settings):
        random = settings.random(PATIENT, number)
        self.number, self.label = number, label_of(number, settings)
        self.traits = traits = sample_traits(random, self.label)
        self.plane = plane = "longitudinal" if random.random() < 0.25 else "transverse"
        self.nodule = nodule = Nodule(random, traits, plane)
        self.neck = neck = Neck(random, nodule, plane)
        nodule.put_into(neck, random, traits.margin, plane)
        self.age = round(min(max(random.normal(52, 14), 18), 88))
        self.sex = "F" if random.random() < 0.78 else "M"
        self.side = "right" if random.random() < 0.52 else "left"
        self.scanner: Scanner = random.choice(find_scanners(settings.scanners))
        self.depth = min(max(neck.lobe[1] + neck.lobe_axes[1] + random.uniform(9, 22), 38.0), 58.0)
        self.views = int(random.integers(*settings.views, endpoint=True))
        self.callipers = random.random() < 0.3 + settings.calliper_bias * (self.label - 0.5)
        beside = 0.55 * nodule.x + 0.45 * neck.lobe[0]
        self.centre = beside + random.uniform(-6, 4) if plane == "transverse" else nodule.x + random.uniform(-5, 5)
        self.gain = random.normal(0, 2.0)
        self.loose_edge = int(random.choice([0, -1, 1], p=[0.84, 0.08, 0.08]))
        self.penetration = random.uniform(-0.01, 0.08)

    def change(self, random: np.random.Generator, traits: Mapping[str, str], gain: float) -> None:
        """Give the nodule other traits, in the words of `POINTS`, and the scanner `gain` dB more; size and place stay."""
        before, self.traits = self.traits, replace(self.traits, **traits)
        self.gain += gain
        self.nodule.echo += _ECHO[self.traits.echogenicity][0] - _ECHO[before.echogenicity][0]
        if self.traits.margin != before.margin:
            other = Nodule(random, self.traits, self.plane)
            self.nodule.waves, self.nodule.softness, self.nodule.halo = other.waves, other.softness, other.halo

    def spacing(self, size: int) -> float:
        """mm a pixel of a frame of `size` pixels: its echo area shows the imaging depth."""
        top, bottom, _, _ = self.scanner.echo_area(size)
        return self.depth / (bottom - top)


class View:
    """View `number` (from 0) of a patient: a small movement of the probe (`shift` in mm), a touch of gain, the tissue nearly the
    same (`same_scatter`, a correlation)."""

    def __init__(self, patient: Patient, number: int, settings: Settings):
        random = settings.random(VIEW, patient.number, number)
        self.number = number
        self.shift = (random.normal(0, 0.45), random.normal(0, 0.2))
        self.tilt = random.normal(0, 0.008)
        self.stretch = random.normal(1.0, 0.006)
        self.gain = patient.gain + random.normal(0, 0.5)
        self.focus = patient.nodule.y + random.uniform(-3, 3)
        self.same_scatter = random.uniform(0.92, 0.98)
        self.callipers = patient.callipers and random.random() < 0.75
