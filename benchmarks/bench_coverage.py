"""How often intervals hold the truth, and tests reject what is true, where users are: few patients, images of a patient alike.

    python benchmarks/bench_coverage.py [--repetitions 200] [--only scores shares …] [--add COUNTS.csv --seed 1] [--markdown FILE]

With `--add` the counts are added to those of earlier runs, of other parts or of another seed, so that a long run can be made in
pieces; the table is then of all of them.

Nominal are 95 % and 5 %; asked are 93 to 98 % and 3 to 6.5 %, or no interval and no verdict. A row is an interval or a test at a
number of patients of the rarer class; its lowest, highest and mean shares are over the rest: one image a patient, five alike, 1
to 20 alike; AUC 0.5 to 0.97, shares 0.02 to 0.98; 1, 2, 3 and 5 seeds. "studies" are the fewest that a share is of, and the error
is the Monte Carlo standard error of that share. A row is marked where its lowest or highest share misses what is asked by more
than three such errors: "<" is too short an interval, or a test that rejects too often, ">" the opposite. "given" is how often
there was an interval or a verdict at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm

from thyroid_utils.inference.conformal import conformal_sets, coverage
from thyroid_utils.scores.comparisons import subset_comparison, subset_estimate
from thyroid_utils.scores.curves import auc_within, benefit_curve, pr_band, roc_band
from thyroid_utils.scores.estimates import patient_estimate, patient_median, patient_scores
from thyroid_utils.scores.groups import mann_whitney_patients, randomisation_test
from thyroid_utils.scores.labels import SCORES, Labelled, Weighed, choose_threshold
from thyroid_utils.scores.probabilities import fit_platt
from thyroid_utils.scores.recipes import auc_influence, compare_recipes, mean_influence
from thyroid_utils.studies.grad_cam.attention import placement_tests

PATIENTS = {7: 40, 15: 30, 30: 40, 100: 100}  # of the rarer class: of the other
IMAGES = ("1", "5", "1-20")
ALIKE = 0.6  # correlation of the images of one patient
AREAS = (0.5, 0.75, 0.9, 0.97)
# Their truth depends on the share of malignant images, which is drawn with the patients.
OF_THE_MIX = ("pr_auc", "accuracy", "precision", "f1", "mcc", "brier", "calibration_intercept", "calibration_slope")
ASKED = {"interval": (0.93, 0.98), "test": (0.03, 0.065)}

Told = Iterator[tuple[str, str, int, str, bool | None]]  # kind, name, patients, regime, held (None: no interval or test)


def patients_of(random: np.random.Generator, count: int, images: str) -> np.ndarray:
    """The patient of each image, (n,)."""
    each = {"1": np.ones(count, int), "5": np.full(count, 5), "1-20": random.integers(1, 21, count)}[images]
    return np.repeat(np.arange(count), each)


def alike(random: np.random.Generator, codes: np.ndarray, seeds: int = 1) -> np.ndarray:
    """Standard normal numbers, (seeds, n), alike within patients and half alike over seeds."""
    own = np.sqrt(ALIKE) * random.normal(size=codes.max() + 1)[codes] + np.sqrt(1 - ALIKE) * random.normal(size=len(codes))
    return np.sqrt(0.5) * own + np.sqrt(0.5) * (
        np.sqrt(ALIKE) * random.normal(size=(seeds, codes.max() + 1))[:, codes]
        + np.sqrt(1 - ALIKE) * random.normal(size=(seeds, len(codes)))
    )


def true_scores(shift: float, benign: int, malignant: int) -> dict[str, float]:
    """Of a very large sample in equal steps."""
    steps = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    truth = np.repeat([False, True], len(steps))
    images = Labelled(truth, expit(np.concatenate([steps - shift / 2, steps + shift / 2])))
    weighed = Weighed(images, np.where(truth, malignant, benign)[:, None].astype(float))
    return {name: float(weighed.score(name)[0]) for name in SCORES}


def of_scores(random: np.random.Generator, times: int) -> Told:
    for (few, many), images, (area, seeds) in product(PATIENTS.items(), IMAGES, zip(AREAS, (1, 2, 3, 5), strict=True)):
        shift, count = np.sqrt(2) * norm.ppf(area), few + many
        truths = true_scores(shift, few, many)
        slow = few == 100  # two thousand images
        for _ in range(times // 3 if slow else times):
            for drawn in (False, True):
                codes = patients_of(random, count, images)
                rare = random.random(count) < few / count if drawn else np.arange(count) < few
                if min(rare.sum(), count - rare.sum()) < 2:
                    continue
                truth = ~rare[codes]
                x = alike(random, codes, seeds) + shift * (truth - 0.5)
                names = [name for name in SCORES if (name in OF_THE_MIX) == drawn]
                names = [name for name in names if not (slow and name.startswith("calibration"))]
                for name, found in patient_scores(truth, expit(x), codes, names).items():
                    held = None if np.isnan(found.low) else found.low <= truths[name] <= found.high
                    yield "interval", SCORES[name], few, f"{images}, {area}", held


def of_shares(random: np.random.Generator, times: int) -> Told:
    for count, images, share in product(PATIENTS, IMAGES, (0.02, 0.1, 0.3, 0.5, 0.98)):
        for _ in range(times):
            codes = patients_of(random, count, images)
            right = alike(random, codes)[0] < norm.ppf(share)
            found = patient_estimate(right, codes, share=True)
            yield "interval", "share of images", count, f"{images}, {share}", found.low <= share <= found.high
            if right.all() or not right.any():
                continue
            doubt = alike(random, codes)[0] - np.sqrt(2) * norm.ppf(0.75) * right
            found = patient_scores(~right, expit(doubt), codes, "auc")["auc"]
            held = None if np.isnan(found.low) else found.low <= 0.75 <= found.high
            yield "interval", "AUROC of finding errors", count, f"{images}, {share}", held


def of_means(random: np.random.Generator, times: int) -> Told:
    def dice(x: np.ndarray) -> np.ndarray:  # one in twenty is missed altogether
        return expit(1.7 + x) * (x > norm.ppf(0.05))

    steps = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    for count, images in product(PATIENTS, IMAGES):
        for _ in range(times):
            codes = patients_of(random, count, images)
            x = alike(random, codes)[0]
            found = {
                "Dice": (patient_estimate(dice(x), codes, share=True), dice(steps).mean()),
                "difference of two means": (patient_estimate(x, codes), 0.0),
                "median": (patient_median(x, codes), 0.0),
            }
            for name, (estimate, truth) in found.items():
                yield "interval", name, count, images, estimate.low <= truth <= estimate.high


def of_misses(random: np.random.Generator, times: int) -> Told:
    """Outlines alike but for those, one in twenty, that miss the nodule: most small samples hold too few of them."""
    steps = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    truth = 0.95 * expit(2.3 + 0.7 * steps).mean()
    for count, images in product((15, 30, 100), IMAGES):
        for _ in range(times):
            codes = patients_of(random, count, images)
            dice = expit(2.3 + 0.7 * alike(random, codes)[0]) * (random.random(len(codes)) >= 0.05)
            found = patient_estimate(dice, codes, share=True)
            yield "interval", "Dice with rare misses", count, images, found.low <= truth <= found.high


def of_bands(random: np.random.Generator, times: int) -> Told:
    places = np.array([5, 10, 20, 50])
    for (few, many), images, area in product(PATIENTS.items(), IMAGES, (0.6, 0.9)):
        shift = np.sqrt(2) * norm.ppf(area)
        for _ in range(times // 2):
            codes = patients_of(random, few + many, images)
            truth = codes >= few
            band = roc_band(truth, alike(random, codes)[0] + shift * truth, codes, resamples=200).iloc[places]
            true = norm.cdf(norm.ppf(places / 100) + shift)
            for place, low, high, value in zip(places, band["low"], band["high"], true, strict=True):
                held = None if np.isnan(low) else low <= value <= high
                yield "interval", "ROC band", few, f"{images}, {area}, at {place} %", held


def of_folds(random: np.random.Generator, times: int) -> Told:
    """AUCs of five folds, each with its own scale of the scores."""
    for (few, many), images, area in product(list(PATIENTS.items())[1:], IMAGES, AREAS):
        for _ in range(times // 2):
            codes = patients_of(random, few + many, images)
            truth, folds = codes >= few, codes % 5
            x = alike(random, codes)[0] + np.sqrt(2) * norm.ppf(area) * truth + 3 * random.normal(size=5)[folds]
            found = auc_within(truth, x, codes, folds)
            held = None if np.isnan(found.low) else found.low <= area <= found.high
            yield "interval", "ROC-AUC within folds", few, f"{images}, {area}", held


def of_mixed_curves(random: np.random.Generator, times: int) -> Told:
    """Precision and net benefit, whose truth depends on the share of malignant images, drawn with the patients."""
    places, thresholds = np.array([20, 50, 80]), np.array([0.05, 0.2, 0.5, 0.8])
    for (few, many), images, area in product(PATIENTS.items(), IMAGES, (0.6, 0.9)):
        shift, share = np.sqrt(2) * norm.ppf(area), many / (few + many)
        alarms = norm.cdf(norm.ppf(places / 100) - shift)
        true = {"PR band": places / 100 * share / (places / 100 * share + alarms * (1 - share))}
        cuts, odds = logit(thresholds) + shift / 2, thresholds / (1 - thresholds)
        true["net benefit"] = share * norm.sf(cuts - shift) - (1 - share) * norm.sf(cuts) * odds
        for _ in range(times // 2):
            codes = patients_of(random, few + many, images)
            truth = (random.random(few + many) < share)[codes]
            if len(set(truth)) < 2:
                continue
            x = alike(random, codes)[0] + shift * truth
            found = {
                "PR band": pr_band(truth, x, codes, resamples=200).iloc[places].set_index("recall"),
                "net benefit": benefit_curve(truth, expit(x - shift / 2), codes, thresholds).set_index("threshold"),
            }
            for name, band in found.items():
                for place, low, high, value in zip(band.index, band["low"], band["high"], true[name], strict=True):
                    held = None if np.isnan(low) else low <= value <= high
                    yield "interval", name, few, f"{images}, {area}, at {place}", held


def of_groups(random: np.random.Generator, times: int) -> Told:
    for (few, many), images, area in product(PATIENTS.items(), IMAGES, (0.5, 0.75, 0.9)):
        for _ in range(times):
            codes = patients_of(random, few + many, images)
            x = random.normal(size=few + many)[codes] + np.sqrt(2) * norm.ppf(area) * (codes >= few)
            found = mann_whitney_patients(x, codes >= few, codes)
            yield "interval", "rank-biserial", few, f"{images}, {area}", found.low <= 2 * area - 1 <= found.high
            if area == 0.5:
                yield "test", "Mann-Whitney of patients", few, images, found.p_value < 0.05
                y = alike(random, codes)[0]
                p = randomisation_test(y, codes < few, np.ones(len(codes), bool), codes, 199)
                yield "test", "subgroup against the rest", few, images, p < 0.05


def of_recipes(random: np.random.Generator, times: int) -> Told:
    """One recipe twice: each training draws its own luck, which all patients share in part."""
    for (few, many), images, seeds in product(PATIENTS.items(), IMAGES, (1, 2, 3, 5)):
        for _ in range(times):
            codes = patients_of(random, few + many, images)
            truth = codes >= few
            one, two = (alike(random, codes, seeds) + 1.5 * random.lognormal(0, 0.3, (seeds, 1)) * truth for _ in range(2))
            pairs = {
                "AUC": [auc_influence(truth, x) for x in (one, two)],
                "accuracy": [mean_influence((x > 0.75) == truth) for x in (one, two)],
            }
            for name, (first, second) in pairs.items():
                found = compare_recipes(first, second, codes)
                p = found.p_value
                yield "test", f"recipes differ in {name}", few, f"{images}, {seeds} seeds", None if np.isnan(p) else p < 0.05


def of_trained_folds(random: np.random.Generator, times: int) -> Told:
    """Two recipes in five folds, each fitted to numbers of its own that tell as much as the other's."""
    for (few, many), images, seeds in product(PATIENTS.items(), ("1", "5"), (1, 2, 3)):
        for _ in range(times // 4):
            codes = patients_of(random, few + many, images)
            truth, part = codes >= few, np.empty(few + many, int)
            part[:few], part[few:] = random.permutation(few) % 5, random.permutation(many) % 5
            seen = [np.stack([alike(random, codes)[0] for _ in range(8)]) + 0.35 * (2 * truth - 1) for _ in range(3)]
            folds, values = part[codes], [(seen[0] + own).T for own in seen[1:]]
            odds, cuts = np.empty((2, 2, seeds, len(codes)))
            apart = np.empty((2, seeds, 5))
            for fold, (recipe, x), seed in product(range(5), enumerate(values), range(seeds)):
                test, val = folds == fold, folds == (fold + 1) % 5
                said = _least_squares(random, x, truth, ~(test | val))
                platt = fit_platt(truth[val], said[val], truth.mean())
                odds[recipe, seed, test] = platt.log_odds(said[test])
                cuts[recipe, seed, test] = choose_threshold(truth[val], platt(said[val]))
                apart[recipe, seed, fold] = auc_influence(truth[test], said[test]).scores[0]
            regime = f"{images}, {seeds} seeds"
            if seeds == 1:
                p = subset_comparison(*apart[:, 0], 3 * len(codes) // 5, len(codes) // 5, few + many).p_value
                yield "test", "recipes differ in AUC over folds", few, regime, None if np.isnan(p) else p < 0.05
                continue
            right = [mean_influence((expit(own) >= cut) == truth) for own, cut in zip(odds, cuts, strict=True)]
            for name, pair in (("AUC", [auc_influence(truth, own) for own in odds]), ("accuracy", right)):
                p = compare_recipes(*pair, codes).p_value
                yield "test", f"recipes differ in {name}, folds pooled", few, regime, None if np.isnan(p) else p < 0.05


def _least_squares(random: np.random.Generator, x: np.ndarray, truth: np.ndarray, train: np.ndarray) -> np.ndarray:
    """What a fit to 6 random features of numbers (n, k) says of all, (n,); the features are the luck of the training."""
    features = np.tanh(x @ random.normal(size=(x.shape[1], 6)) / 3)
    return 4 * features @ np.linalg.lstsq(features[train], 2.0 * truth[train] - 1, rcond=None)[0]


def of_conformal(random: np.random.Generator, times: int) -> Told:
    """Promised are 90 %: its interval on test, given the sets, and how often the sets keep the promise on average."""
    for count, images in product(PATIENTS, IMAGES):
        for _ in range(times):
            val, test, many = (patients_of(random, size, images) for size in (40, count, 2000))
            labels = [(codes % 2).astype(int) for codes in (val, test, many)]
            odds = [
                expit(alike(random, codes)[0] + 2 * truth - 1) for codes, truth in zip((val, test, many), labels, strict=True)
            ]
            held = [
                coverage(conformal_sets(odds[0], labels[0], odds[at], 0.1, val_patients=val), labels[at], codes).loc[
                    "all", "coverage"
                ]
                for at, codes in ((1, test), (2, many))
            ]
            yield "interval", "coverage of conformal sets", count, images, held[0].low <= held[1].value <= held[0].high


def of_subsets(random: np.random.Generator, times: int) -> Told:
    """Scores of overlapping subsets correlate by their share of test images, which is what the correction takes them for."""
    for share, subsets in product((0.1, 0.2, 0.3), (3, 5, 10)):
        for _ in range(times):
            drawn = np.sqrt(share) * random.normal(size=(2, 1)) + np.sqrt(1 - share) * random.normal(size=(2, subsets))
            scores, sizes = 0.85 + 0.03 * drawn, (round(100 * (1 - share)), round(100 * share), 20)
            found = subset_estimate(scores[0], *sizes)
            yield "interval", "score over subsets", subsets, f"{share}", found.low <= 0.85 <= found.high
            yield "test", "recipes differ over subsets", subsets, f"{share}", subset_comparison(*scores, *sizes).p_value < 0.05


def of_maps(random: np.random.Generator, times: int) -> Told:
    """Maps at random beside nodules of 5 % of the area."""
    mask = np.zeros((16, 16), bool)
    mask[6:10, 6:9] = True
    for count in (7, 15, 30):
        for _ in range(times // 2):
            codes = patients_of(random, count, "1")
            maps = random.random((len(codes), 4, 4)).repeat(4, 1).repeat(4, 2)
            maps = np.stack([np.roll(each, random.integers(16, size=2), (0, 1)) for each in maps])
            masks = np.stack([np.roll(mask, random.integers(-5, 6, size=2), (0, 1)) for _ in codes])
            for name, found in placement_tests(maps, masks, codes, deals=199).loc["energy_inside"].items():
                yield "test", f"maps {name}", count, "1", None if np.isnan(found.p_value) else found.p_value < 0.05


PARTS = {
    "scores": of_scores, "shares": of_shares, "means": of_means, "bands": of_bands, "folds": of_folds, "curves": of_mixed_curves,
    "groups": of_groups, "recipes": of_recipes, "conformal": of_conformal, "subsets": of_subsets,
    "trained_folds": of_trained_folds, "maps": of_maps,
    "misses": of_misses,
}  # fmt: skip


REGIME = ["kind", "name", "patients", "regime"]


def counted(told: Told) -> pd.DataFrame:
    """A row a regime: in how many of `size` studies it held (`sum`), and in how many there was something to hold (`count`)."""
    table = pd.DataFrame(told, columns=[*REGIME, "held"]).astype({"held": float})
    return table.groupby(REGIME, sort=False)["held"].agg(["sum", "count", "size"]).reset_index()


def summary(shares: pd.DataFrame) -> pd.DataFrame:
    """A row an interval or test and number of patients, of `counted`."""
    shares, rows = shares.assign(mean=shares["sum"] / shares["count"]), []
    for (kind, name, patients), regimes in shares.groupby(["kind", "name", "patients"], sort=False):
        known, (least, most) = regimes[regimes["count"] > 0.1 * regimes["size"]], ASKED[kind]
        error = np.sqrt(0.05 * 0.95 / known["count"].min())
        low, high = known["mean"].min(), known["mean"].max()
        marks = ("<", ">") if kind == "interval" else (">", "<")
        rows.append({
            "kind": kind, "what": name, "patients": patients, "lowest %": 100 * low, "highest %": 100 * high,
            "mean %": 100 * known["mean"].mean(),
            "error": 100 * error, "studies": known["count"].min(),
            "given %": 100 * regimes["count"].sum() / regimes["size"].sum(),
            "mark": marks[0] * bool(low < least - 3 * error) + marks[1] * bool(high > most + 3 * error),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("kind", kind="stable")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="of each regime")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", type=Path, help="file of counts to add to")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    counts = counted(row for part in options.only for row in PARTS[part](random, options.repetitions))
    if options.add:
        known = pd.read_csv(options.add) if options.add.is_file() else counts[:0]
        counts = pd.concat([known, counts]).groupby(REGIME, sort=False).sum().reset_index()
        counts.to_csv(options.add, index=False)
    table = summary(counts)
    table["studies"] = table["studies"].astype("Int64")
    table = table.round({"lowest %": 1, "highest %": 1, "mean %": 1, "error": 1, "given %": 0}).astype(object).fillna("–")
    print(table.to_string(index=False))
    if options.markdown:
        lines = [
            "| " + " | ".join(map(str, row)) + " |" for row in [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
        ]
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(table["mark"].str.contains("<").any())


if __name__ == "__main__":
    sys.exit(main())
