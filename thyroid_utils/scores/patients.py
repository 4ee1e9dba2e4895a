"""How far a number moves when each patient is left out, and its variance over patients.

All intervals and tests over patients rest on this variance (the jackknife). A score of classes, as an AUC, rests on each class
apart. Patients with more images weigh more and tell as much as fewer patients, (Σ images)² / Σ images² (Kish), which leave the
degrees of freedom. With one image a patient the variance is s² / n for a mean and DeLong's for an AUC.

Reference:
    Arvesen, Ann. Math. Stat. 40 (1969) 2076-2100; of an AUC it is Obuchowski's variance, Biometrics 53 (1997) 567-578, but for
    small terms; Kish, Survey Sampling (1965), section 11.7; Satterthwaite, Biometrics Bulletin 2 (1946) 110-114.
"""

from collections.abc import Callable

import numpy as np

# Images × patients left out held at once: 512 kB of float64 stay in a core's cache. Blocks four times as large take four times
# as long.
BLOCK_VALUES = 2**16
_MOST_LEFT_OUT = 1000  # of more patients, several are left out together


def images_of(codes: np.ndarray, strata: np.ndarray, classes: int = 2) -> np.ndarray:
    """How many images each patient has of each class, (classes, patients); codes and strata, the patient and class of each image,
    int or bool (n,), from 0."""
    return np.stack([np.bincount(codes, strata == kind) for kind in range(classes)])


def effective(images: np.ndarray) -> np.ndarray:
    """Of patients with so many images each, (…, patients), the number of equal ones that tell as much; 0 without an image."""
    return images.sum(axis=-1) ** 2 / np.maximum((images**2).sum(axis=-1), 1)


def jackknife(moves: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Variance of numbers over patients, its degrees of freedom, both (…,), and the `effective` number of patients behind it.

    A patient with images of several classes counts for that of the fewest patients. NaN where a class has fewer than two.

    Args:
        moves: what leaving out each patient adds to the numbers, (…, patients).
        images: of each patient that count for them, (patients,), or (classes, patients); who has none is left out.
    """
    images = np.atleast_2d(images)
    counts, numbers = (images > 0).sum(axis=1), effective(images)
    if counts.min() < 2:
        return *np.full((2, *moves.shape[:-1]), np.nan), float(numbers.min())
    rarest = np.where(images > 0, numbers[:, None], np.inf).argmin(axis=0)
    squares = np.where((images > 0).any(axis=0), moves, 0.0) ** 2
    variances = squares @ (rarest[:, None] == np.arange(len(counts))) * (1 - 1 / counts)  # (…, classes)
    total = variances.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        freedom = total**2 / (variances**2 / np.maximum(numbers - 1, 0.5)).sum(axis=-1)
    return total, np.where(total > 0, freedom, numbers.min() - 1), float(numbers.min())


def over_patients(by_image: np.ndarray, strata: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`jackknife` of each row's score, variance and degrees of freedom (rows,), from its influences.

    Args:
        by_image: what each image moves a score by, (rows, n).
        strata, codes: class and patient of each image, int (n,), from 0.
    """
    images = images_of(codes, strata, int(strata.max()) + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        moves = by_image / (images / images.sum(axis=1, keepdims=True) - 1)[strata, codes]
    return jackknife(np.stack([np.bincount(codes, row) for row in moves]), images)[:2]


def leave_out(score: Callable[[np.ndarray], np.ndarray], codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A score of all images, and what leaving out each patient adds to it.

    Args:
        score: maps weights (n, m), how often each of n images counts in each of m columns, to scores (…, m).
        codes: the patient of each image, int (n,), from 0 (`patient_codes`).

    Returns:
        the score (…,) and the moves (…, patients), NaN where the images of the others leave it undefined.
    """
    value, patients = score(np.ones((len(codes), 1))), int(codes.max()) + 1
    block = int(np.clip(BLOCK_VALUES // len(codes), 8, patients))
    left = [np.arange(start, min(start + block, patients)) for start in range(0, patients, block)]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [score((codes[:, None] != out).astype(float)) for out in left]
    return value[..., 0], np.concatenate(found, axis=-1) - value


def in_groups(codes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Codes of at most 1000 groups of patients, of one class but for one group: leaving each out takes as long as there are."""
    malignant = np.bincount(codes, truth) > 0
    places = np.empty(len(malignant), dtype=int)
    places[np.argsort(malignant, kind="stable")] = np.arange(len(malignant))
    return places[codes] if len(malignant) <= _MOST_LEFT_OUT else places[codes] * _MOST_LEFT_OUT // len(malignant)
