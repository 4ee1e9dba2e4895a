"""TI-RADS traits of a nodule: how often each occurs by class, the points they score, and what a perfect reader makes of them.

Traits are drawn given the class: first the composition, then the others given composition and class. The frequencies are
orders of magnitude from the TI-RADS literature (Tessler et al., ACR TI-RADS, JACR 2017, doi 10.1016/j.jacr.2017.01.046),
adjusted together until the best possible reader of the traits has an AUC of 0.95: benign and malignant overlap.
Nothing else in a phantom (size, age, sex, scanner, place) depends on the class, callipers excepted where asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from thyroid_utils.data.phantom.draws import Draws

COMPOSITIONS = ("cystic", "spongiform", "mixed", "solid")
ECHOGENICITIES = ("anechoic", "hyperechoic", "isoechoic", "hypoechoic", "markedly hypoechoic")
SHAPES = ("wider than tall", "taller than wide")
MARGINS = ("smooth", "ill-defined", "lobulated", "extrathyroidal")
FOCI = ("none", "comet-tail", "macrocalcification", "rim", "punctate")
LEVELS = ("TR1", "TR2", "TR3", "TR4", "TR5")

POINTS = {
    "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2},
    "echogenicity": {"anechoic": 0, "hyperechoic": 1, "isoechoic": 1, "hypoechoic": 2, "markedly hypoechoic": 3},
    "shape": {"wider than tall": 0, "taller than wide": 3},
    "margin": {"smooth": 0, "ill-defined": 0, "lobulated": 2, "extrathyroidal": 3},
    "foci": {"none": 0, "comet-tail": 0, "macrocalcification": 1, "rim": 2, "punctate": 3},
}


@dataclass(frozen=True)
class Traits:
    """The five ACR TI-RADS categories of one nodule, in the words of `POINTS`."""

    composition: str
    echogenicity: str
    shape: str
    margin: str
    foci: str


# (benign, malignant) frequencies. A cyst is anechoic, and anechoic means a cyst, so these two are tied.
_COMPOSITION = {"cystic": (0.13, 0.004), "spongiform": (0.12, 0.006), "mixed": (0.32, 0.13), "solid": (0.43, 0.86)}
_ECHOGENICITY = {
    "cystic": {"anechoic": (1.0, 1.0)},
    "spongiform": {"hyperechoic": (0.15, 0.15), "isoechoic": (0.7, 0.6), "hypoechoic": (0.15, 0.25)},
    "mixed": {
        "hyperechoic": (0.16, 0.04),
        "isoechoic": (0.54, 0.24),
        "hypoechoic": (0.28, 0.58),
        "markedly hypoechoic": (0.02, 0.14),
    },
    "solid": {
        "hyperechoic": (0.18, 0.03),
        "isoechoic": (0.46, 0.15),
        "hypoechoic": (0.32, 0.56),
        "markedly hypoechoic": (0.04, 0.26),
    },
}
_SHAPE = {
    "cystic": {"wider than tall": (0.98, 0.95), "taller than wide": (0.02, 0.05)},
    "spongiform": {"wider than tall": (0.97, 0.9), "taller than wide": (0.03, 0.1)},
    "mixed": {"wider than tall": (0.95, 0.8), "taller than wide": (0.05, 0.2)},
    "solid": {"wider than tall": (0.91, 0.57), "taller than wide": (0.09, 0.43)},
}
_MARGIN = {
    "cystic": {"smooth": (0.95, 0.9), "ill-defined": (0.05, 0.1)},
    "spongiform": {"smooth": (0.8, 0.6), "ill-defined": (0.19, 0.3), "lobulated": (0.01, 0.1)},
    "mixed": {"smooth": (0.72, 0.36), "ill-defined": (0.22, 0.24), "lobulated": (0.05, 0.32), "extrathyroidal": (0.01, 0.08)},
    "solid": {"smooth": (0.69, 0.18), "ill-defined": (0.24, 0.23), "lobulated": (0.06, 0.46), "extrathyroidal": (0.01, 0.13)},
}
_FOCI = {
    "cystic": {"none": (0.6, 0.7), "comet-tail": (0.37, 0.1), "rim": (0.03, 0.2)},
    "spongiform": {"none": (0.7, 0.6), "comet-tail": (0.28, 0.2), "macrocalcification": (0.02, 0.1), "punctate": (0.0, 0.1)},
    "mixed": {
        "none": (0.63, 0.42),
        "comet-tail": (0.2, 0.04),
        "macrocalcification": (0.08, 0.12),
        "rim": (0.05, 0.08),
        "punctate": (0.04, 0.34),
    },
    "solid": {
        "none": (0.77, 0.36),
        "comet-tail": (0.03, 0.01),
        "macrocalcification": (0.1, 0.14),
        "rim": (0.05, 0.07),
        "punctate": (0.05, 0.42),
    },
}
_GIVEN_COMPOSITION = {"echogenicity": _ECHOGENICITY, "shape": _SHAPE, "margin": _MARGIN, "foci": _FOCI}


def _of_class(table: Mapping[str, tuple[float, float]], label: int) -> dict[str, float]:
    total = sum(pair[label] for pair in table.values())
    return {name: pair[label] / total for name, pair in table.items()}


def sample_traits(draws: Draws, label: int) -> Traits:
    """Draw the traits of a benign (0) or malignant (1) nodule."""
    composition = draws.pick(_of_class(_COMPOSITION, label))
    others = {name: draws.pick(_of_class(table[composition], label)) for name, table in _GIVEN_COMPOSITION.items()}
    return Traits(composition, **others)


def trait_probability(traits: Traits, label: int) -> float:
    """P(traits | class) in [0, 1]; 0 for a combination that does not occur, such as a cyst that is not anechoic."""
    probability = _of_class(_COMPOSITION, label).get(traits.composition, 0.0)
    for name, table in _GIVEN_COMPOSITION.items():
        probability *= _of_class(table[traits.composition], label).get(getattr(traits, name), 0.0)
    return probability


def tirads_points(traits: Traits) -> int:
    """ACR TI-RADS points, 0 to 14; a spongiform nodule scores 0 whatever else it shows."""
    if traits.composition == "spongiform":
        return 0
    return sum(POINTS[name][value] for name, value in asdict(traits).items())


def tirads_level(traits: Traits) -> str:
    """TR1 (0 or 1 points), TR2 (2), TR3 (3), TR4 (4 to 6) or TR5 (7 and more)."""
    points = tirads_points(traits)
    return LEVELS[0] if points < 2 else LEVELS[1] if points == 2 else LEVELS[2] if points == 3 else LEVELS[3 + (points >= 7)]


def malignancy_posterior(traits: Traits, malignant_share: float = 0.4) -> float:
    """P(malignant | traits) by Bayes' rule, in [0, 1]: what a reader who sees every trait perfectly would say.

    Args:
        traits: traits that occur in at least one class.
        malignant_share: prior probability of malignancy.
    """
    malignant = malignant_share * trait_probability(traits, 1)
    benign = (1 - malignant_share) * trait_probability(traits, 0)
    if malignant + benign == 0:
        raise ValueError(f"traits: {traits} never occur together; take traits made by sample_traits")
    return malignant / (malignant + benign)


def all_traits() -> list[Traits]:
    """Every combination of traits that occurs, cystic ones first."""
    values = (COMPOSITIONS, ECHOGENICITIES, SHAPES, MARGINS, FOCI)
    every = (Traits(*combination) for combination in itertools.product(*values))
    return [traits for traits in every if trait_probability(traits, 0) + trait_probability(traits, 1) > 0]


def perfect_reader_auc() -> float:
    """AUC of the best possible reader of the traits, exactly: P(posterior of a malignant > of a benign) + ½ P(equal)."""
    every = all_traits()
    benign = np.array([trait_probability(traits, 0) for traits in every])
    malignant = np.array([trait_probability(traits, 1) for traits in every])
    posterior = malignant / (malignant + benign)
    higher = posterior[:, None] > posterior[None, :]
    equal = posterior[:, None] == posterior[None, :]
    return float(malignant @ (higher + 0.5 * equal) @ benign)


def trait_table() -> dict[str, tuple[str, ...]]:
    """Trait name → its possible values, in the order of rising suspicion or echo."""
    return dict(zip((field.name for field in fields(Traits)), (COMPOSITIONS, ECHOGENICITIES, SHAPES, MARGINS, FOCI), strict=True))
