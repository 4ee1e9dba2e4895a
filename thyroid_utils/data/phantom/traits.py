"""TI-RADS traits of a nodule: how often each occurs by class, the points they score, and what a perfect reader makes of them.

Traits are drawn given the class: first the composition, then the others given composition and class. The frequencies are
orders of magnitude from the TI-RADS literature (Tessler et al., ACR TI-RADS, JACR 2017, doi 10.1016/j.jacr.2017.01.046),
adjusted together until the best possible reader of the traits has an AUC of 0.95: benign and malignant overlap.
Nothing else in a phantom (size, age, sex, scanner, place) depends on the class, callipers excepted where asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

POINTS = {  # of ACR TI-RADS
    "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2},
    "echogenicity": {"anechoic": 0, "hyperechoic": 1, "isoechoic": 1, "hypoechoic": 2, "markedly hypoechoic": 3},
    "shape": {"wider than tall": 0, "taller than wide": 3},
    "margin": {"smooth": 0, "ill-defined": 0, "lobulated": 2, "extrathyroidal": 3},
    "foci": {"none": 0, "comet-tail": 0, "macrocalcification": 1, "rim": 2, "punctate": 3},
}
# Frequencies of the traits in the order of POINTS, of the benign and of the malignant.
_COMPOSITION = ((0.13, 0.12, 0.32, 0.43), (0.004, 0.006, 0.13, 0.86))
_GIVEN_COMPOSITION = {
    "cystic": {  # a cyst is anechoic, and anechoic means a cyst
        "echogenicity": ((1, 0, 0, 0, 0), (1, 0, 0, 0, 0)),
        "shape": ((0.98, 0.02), (0.95, 0.05)),
        "margin": ((0.95, 0.05, 0, 0), (0.9, 0.1, 0, 0)),
        "foci": ((0.6, 0.37, 0, 0.03, 0), (0.7, 0.1, 0, 0.2, 0)),
    },
    "spongiform": {
        "echogenicity": ((0, 0.15, 0.7, 0.15, 0), (0, 0.15, 0.6, 0.25, 0)),
        "shape": ((0.97, 0.03), (0.9, 0.1)),
        "margin": ((0.8, 0.19, 0.01, 0), (0.6, 0.3, 0.1, 0)),
        "foci": ((0.7, 0.28, 0.02, 0, 0), (0.6, 0.2, 0.1, 0, 0.1)),
    },
    "mixed": {
        "echogenicity": ((0, 0.16, 0.54, 0.28, 0.02), (0, 0.04, 0.24, 0.58, 0.14)),
        "shape": ((0.95, 0.05), (0.8, 0.2)),
        "margin": ((0.72, 0.22, 0.05, 0.01), (0.36, 0.24, 0.32, 0.08)),
        "foci": ((0.63, 0.2, 0.08, 0.05, 0.04), (0.42, 0.04, 0.12, 0.08, 0.34)),
    },
    "solid": {
        "echogenicity": ((0, 0.18, 0.46, 0.32, 0.04), (0, 0.03, 0.15, 0.56, 0.26)),
        "shape": ((0.91, 0.09), (0.57, 0.43)),
        "margin": ((0.69, 0.24, 0.06, 0.01), (0.18, 0.23, 0.46, 0.13)),
        "foci": ((0.77, 0.03, 0.1, 0.05, 0.05), (0.36, 0.01, 0.14, 0.07, 0.42)),
    },
}


@dataclass(frozen=True)
class Traits:
    """The five ACR TI-RADS categories of one nodule, in the words of `POINTS`."""

    composition: str
    echogenicity: str
    shape: str
    margin: str
    foci: str


def _pick(random: np.random.Generator, name: str, frequencies: tuple[float, ...]) -> str:
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
