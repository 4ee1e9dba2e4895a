"""Where maps point: against the nodule's outline, beside chance, other patients' maps and a map that always points to the middle.

Chance is the same map put at a random place of its image: shifted cyclically by any number of rows and columns, all equally
likely. It keeps the map's form, so that a large region does not beat a small one by its size. For the share of the energy and for
the peak this is the share of the image that the nodule takes; for the distance the mean distance of all pixels.

A coarse map cannot point everywhere: one of 2×2 places has its maximum in a corner, whatever it shows, and so less often on
nodules in the middle than at random places. Whether a map follows its own image is therefore asked of the maps of other patients:
the same network, the same grid and the same habits, laid on this image's nodule.

Both questions are tested by doing to the maps what must not matter were the answer no (`placement_tests`): all maps of a patient
are shifted alike, or patients exchange their maps. What nodules are large or central, and what maps are wide, stays as it is.
Flipping signs of differences would not do: a map has a nodule's share of 0 mostly and much of it seldom, and differences as
lopsided as that are found "below chance" in 26 to 63 % of sets of 10 patients whose maps lie at random.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfft2
from scipy.ndimage import distance_transform_edt

from thyroid_utils.common.words import p_value, share
from thyroid_utils.scores.checks import patient_codes
from thyroid_utils.scores.estimates import Comparison, Estimate, patient_estimate
from thyroid_utils.studies.classifier_comparison import banner, chance_told
from thyroid_utils.studies.tables import counted_patients
from thyroid_utils.training.ledger import Run

# name → whether more is better
MEASURES = {"energy_inside": True, "pointing_game": True, "iou": True, "peak_distance": False}
# What a map is held against, as a table says it → end of its columns.
BASELINES = {"other patients": "other", "centre prior": "centre", "chance": "chance"}
_REGION = 0.5  # share of a map's maximum from which on a place belongs to its region
ALPHA = 0.05  # of each test alone; the answer rests on one measure
FEWEST_PATIENTS = 5  # of a test; the exchanges of four are 24, too few for a two-sided p below 0.05
_TESTED = ("− other patients", "− chance")
_DEALT = 2**20  # images × deals held at once


def centre_prior(shape: tuple[int, int]) -> np.ndarray:
    """A map that knows nothing but that nodules are put in the middle: a Gaussian with σ a quarter of each side.

    Returns:
        float64 (height, width) in (0, 1], its maximum 1 at the centre.
    """
    rows, columns = (np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 4)) ** 2) for side in shape)
    prior = np.outer(rows, columns)
    return prior / prior.max()


def attention_scores(maps: np.ndarray, masks: np.ndarray, cases: Sequence[str], patients: Sequence[str]) -> pd.DataFrame:
    """How well each map points to its nodule.

    - `energy_inside`: share of the map's sum inside the mask, in [0, 1] (Wang et al. 2020).
    - `pointing_game`: 1 where the map's maximum lies inside, else 0 (Zhang et al. 2018, here without tolerance); of several equal
      maxima the share inside.
    - `iou`: of the places with at least half the maximum with the mask, in [0, 1].
    - `peak_distance`: from the maximum to the nearest pixel of the mask, in pixels, 0 inside; of several the mean.

    Args:
        maps: (n, height, width), 0 or above; a map that is zero everywhere, or holds NaN, is blank.
        masks: bool, the same shape; may be empty.
        cases, patients: of each image, (n,).

    Returns:
        A row an image, index `case`. For each measure four columns: its own name, `…_other` (the mean over the maps of other
        patients; NaN where there are none), `…_centre` (the centre prior's) and `…_chance`. `blank` and `no_mask` (bool) tell
        why values are NaN: a blank map has no measure and no chance level, an empty mask has nothing.

    References:
        Wang et al., Score-CAM, CVPR Workshops 2020; Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084-1102.
    """
    maps, masks, patients = np.asarray(maps, float), np.asarray(masks, bool), np.asarray(patients, object)
    shown, outlined = np.flatnonzero(maps.max(axis=(1, 2)) > 0), masks.any(axis=(1, 2))  # NaN is not above 0
    away = np.array([distance_transform_edt(~mask) for mask in masks]).reshape(masks.shape)
    pairs = _pairs(np.concatenate([maps[shown], centre_prior(maps.shape[1:])[None]]), masks, away)
    chance = np.full((len(MEASURES), len(maps)), np.nan)
    for at in shown:
        chance[:, at] = _over_shifts(maps[at], masks[at], away[at]).mean(axis=(1, 2))
    other = patients[shown][:, None] != patients  # (maps, images)
    columns = {}
    for name, found, by_chance in zip(MEASURES, pairs, chance, strict=True):
        of_maps, of_centre = found[:-1], found[-1]
        columns[name] = np.full(len(maps), np.nan)
        columns[name][shown] = of_maps[np.arange(len(shown)), shown]
        columns[f"{name}_chance"], columns[f"{name}_centre"] = by_chance, of_centre
        columns[f"{name}_other"] = (of_maps * other).sum(axis=0) / np.where(other.any(axis=0), other.sum(axis=0), np.nan)
    scores = pd.DataFrame(columns, index=pd.Index(list(cases), name="case", dtype="string"))
    scores[~outlined] = np.nan
    return scores.assign(blank=~np.isin(np.arange(len(maps)), shown), no_mask=~outlined)


def _forms(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of maps (m, height, width), none of them blank: their shares of the sum, of the peak (several equal ones share it), and the
    region of at least half the maximum, 0 or 1; each float, of the maps' shape."""
    top = maps.max(axis=(1, 2), keepdims=True)
    peaks = maps == top
    sums = maps.sum(axis=(1, 2), keepdims=True)
    return maps / sums, peaks / peaks.sum(axis=(1, 2), keepdims=True), 1.0 * (maps >= _REGION * top)


def _pairs(maps: np.ndarray, masks: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Each measure of every map (m, height, width) on every mask (n, height, width), (measures, m, n), in `MEASURES`' order; of
    empty masks without meaning."""
    energy, peaks, region = (form.reshape(len(maps), -1) for form in _forms(maps))  # (m, pixels)
    nodules = masks.reshape(len(masks), energy.shape[1]).T.astype(float)  # (pixels, n)
    shared = region @ nodules
    union = region.sum(axis=1)[:, None] + nodules.sum(axis=0) - shared
    return np.stack([energy @ nodules, peaks @ nodules, shared / union, peaks @ away.reshape(nodules.shape[::-1]).T])


def _over_shifts(values: np.ndarray, mask: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Each measure of one map at all its cyclic shifts, (measures, height, width). What lies where at each shift is a
    correlation, here by Fourier."""
    nodule = mask.astype(float)
    forms = np.conj(rfft2(np.concatenate(_forms(values[None]))))  # (3, height, width // 2 + 1)
    energy, peak, shared = irfft2(rfft2(nodule) * forms, s=mask.shape)
    shared = np.rint(shared)
    union = np.maximum((values >= _REGION * values.max()).sum() + nodule.sum() - shared, 1)
    return np.stack([energy, peak, shared / union, irfft2(rfft2(away) * forms[1], s=mask.shape)])


def placement_tests(maps: np.ndarray, masks: np.ndarray, patients: Sequence[str], *, deals: int = 4999) -> pd.DataFrame:
    """Whether maps lie on their nodules more, or less, than by chance and than other patients' maps do.

    - `− chance`: every patient's maps are shifted alike to a random place, whole patients together, since the maps of one may
      lie alike without following anything.
    - `− other patients`: patients exchange their maps at random; where one has more images than the other has maps, these are
      laid in turn.

    Args:
        maps, masks: as for `attention_scores`; images with a blank map or an empty mask are left out.
        patients: the patient of each image, (n,).
        deals: shifts and exchanges that are drawn, the same ones each time.

    Returns:
        DataFrame, index `measure`, columns `− other patients` and `− chance`, each a `Comparison` of means over images (second:
        the mean over all other patients' maps, or over all shifts). The p-value is twice the smaller share of the deals, the one
        seen among them, that reach as far up, or as far down. There is no interval: the deals say what would be seen were the
        answer no. No p-value for fewer than 5 patients, or without any image.

    Reference:
        Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) 39.
    """
    maps, masks = np.asarray(maps, float), np.asarray(masks, bool)
    kept = (maps.max(axis=(1, 2)) > 0) & masks.any(axis=(1, 2))
    order = np.flatnonzero(kept)[np.argsort(np.asarray(patients, object)[kept].astype(str), kind="stable")]
    maps, masks = maps[order], masks[order]
    if not len(order):
        none = Comparison(*[np.nan] * 6, 0, 0, note="no image has both a map and an outline")
        return pd.DataFrame(none, index=pd.Index(list(MEASURES), name="measure"), columns=list(_TESTED))
    codes, count = patient_codes(np.asarray(patients, object)[order], len(order), "placement_tests")
    away = np.stack([distance_transform_edt(~mask) for mask in masks])
    pairs = _pairs(maps, masks, away)
    seen = pairs.diagonal(axis1=1, axis2=2).mean(axis=1)
    other = codes[:, None] != codes  # (maps, images)
    with np.errstate(invalid="ignore"):
        means = ((pairs * other).sum(axis=1) / other.sum(axis=0)).mean(axis=1)
    random = np.random.default_rng(0)
    dealt = _exchanged(_finer(pairs), codes, random, deals)
    others = [_compared(*found, len(order), count) for found in zip(seen, means, _finer(seen), dealt, strict=True)]
    dealt, means = np.zeros((len(MEASURES), deals)), np.zeros(len(MEASURES))
    for members in np.split(np.arange(len(order)), np.flatnonzero(np.diff(codes)) + 1):
        sums = sum(_over_shifts(maps[at], masks[at], away[at]) for at in members).reshape(len(MEASURES), -1) / len(order)
        dealt += _finer(sums[:, random.integers(sums.shape[1], size=deals)])
        means += sums.mean(axis=1)
    chance = [_compared(*found, len(order), count) for found in zip(seen, means, _finer(seen), dealt, strict=True)]
    columns = dict(zip(_TESTED, (others, chance), strict=True))
    return pd.DataFrame(columns, index=pd.Index(list(MEASURES), name="measure"))


def _finer(values: np.ndarray) -> np.ndarray:
    """What is tested of the measures (measures, …): themselves, the energy breaking ties of those that are 0 on most nodules. Of
    ten maps at random the pointing game alone would call 1 % instead of 5 %."""
    energy, pointing, iou, distance = values
    return np.stack([energy, pointing + 1e-4 * energy, iou + 1e-4 * energy, distance])


def _exchanged(pairs: np.ndarray, codes: np.ndarray, random: np.random.Generator, deals: int) -> np.ndarray:
    """Means over images of each measure (measures, deals) when patients exchange their maps.

    pairs: (measures, maps, images), both in the order of the patients' codes (n,).
    """
    sizes = np.bincount(codes)
    starts, images = np.cumsum(sizes) - sizes, np.arange(len(codes))
    within, found = images - starts[codes], []
    block = max(1, _DEALT // len(codes))
    for start in range(0, deals, block):
        dealt = random.permuted(np.tile(np.arange(len(sizes)), (min(block, deals - start), 1)), axis=1)[:, codes]
        found.append(pairs[:, starts[dealt] + within % sizes[dealt], images].mean(axis=2))
    return np.concatenate(found, axis=1)


def _compared(seen: float, second: float, tested: float, dealt: np.ndarray, images: int, patients: int) -> Comparison:
    slack = 1e-9 * max(abs(tested), np.abs(dealt).max())  # sums in another order differ by rounding
    reached = [int((dealt >= tested - slack).sum()), int((dealt <= tested + slack).sum())]
    few = patients < FEWEST_PATIENTS
    p_value = np.nan if few else min(1.0, 2 * (min(reached) + 1) / (len(dealt) + 1))
    note = f"fewer than {FEWEST_PATIENTS} patients" if few else ""
    return Comparison(float(seen), float(second), float(seen - second), np.nan, np.nan, p_value, images, patients, note=note)


def attention_table(scores: pd.DataFrame, patients: Sequence[str]) -> pd.DataFrame:
    """The measures over images with intervals over patients, beside the baselines on the same images.

    Args:
        scores: of `attention_scores`.
        patients: of each row, (n,).

    Returns:
        A row a measure. Columns `map` and those of `BASELINES` (`Estimate`); `blank` and `no mask`: images left out for that, of
        all columns alike, so that all rest on the same images. Without any image left every value is NaN.
    """
    kept = ~(scores["blank"] | scores["no_mask"]).to_numpy(bool)
    patients = np.asarray(patients, dtype=object)[kept]
    lost = {"blank": int((scores["blank"] & ~scores["no_mask"]).sum()), "no mask": int(scores["no_mask"].sum())}
    rows = {}
    for name in MEASURES:
        others = {baseline: scores.loc[kept, f"{name}_{end}"] for baseline, end in BASELINES.items()}
        share = name != "peak_distance"
        columns = {"map": scores.loc[kept, name], **others}
        rows[name] = {of: patient_estimate(values, patients, share=share) for of, values in columns.items()} | lost
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


def attention_answer(model: str, run: Run, auc: Estimate, table: pd.DataFrame, tests: pd.DataFrame | None) -> str:
    """Whether maps lie on the nodule, in words: how much of them, against chance and against other patients' maps.

    The answer rests on the share of the map inside the nodule alone, chosen before anything was seen.

    Args:
        model, run, auc: the classifier that is explained, and its AUC on test.
        table: of `attention_table`.
        tests: of `placement_tests`, of the same images; None for a classifier near chance, of which nothing is said.
    """
    inside = table.at["energy_inside", "map"]
    if banner(model, auc):
        return f"This run cannot say what {model} looks at: its AUC on test is {auc.text()}, {chance_told(auc)}."
    if not inside.images:
        return f"This run cannot say where {model} looks, because no image has both a map and an outline."
    others, chance = (tests.loc["energy_inside", name] for name in _TESTED)
    interval = "" if np.isnan(inside.low) else f" [{share(inside.low)}, {share(inside.high)}]"
    return (
        f"{model} tells the classes apart (AUC {auc.text()}). Of its map {share(inside.value)}{interval} lie inside the "
        f"nodule, {_held(chance)} chance gives ({_with(chance)}), and {_held(others)} maps of other patients laid there have "
        f"({_with(others)}), in {counted_patients(run, inside.images, inside.patients)}; a blob in the middle has "
        f"{share(table.at['energy_inside', 'centre prior'].value)}."
    )


def _held(found: Comparison) -> str:
    if np.isnan(found.p_value):
        return "not tested against what"
    return "not shown to differ from what" if found.p_value >= ALPHA else f"{'more' if found.difference > 0 else 'less'} than"


def _with(found: Comparison) -> str:
    return f"{share(found.second)}, {found.note or p_value(found.p_value)}"
