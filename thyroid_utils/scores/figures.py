"""Could these figures come from n images? All tables of true and false positives and negatives that give what is printed.

A figure printed as 0.989 stands for all values from 0.9885 to 0.9895, both ends included, as programs round halves up or to even;
where decimals were cut off for those from 0.989 to below 0.990.
Images are counted in whole numbers, so the figures of one test leave few tables, or none. A share of nothing counts as 0, as most
programs print it.

Reference:
    Brown and Heathers, Soc. Psychol. Personal. Sci. 8 (2017) 363-369, who ask this of means of whole numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from thyroid_utils.common.errors import DataError, nearest
from thyroid_utils.common.words import count, listed, number, whole
from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.labels import SCORES

OF_COUNTS = ("accuracy", "precision", "sensitivity", "specificity", "f1", "auc")
FIGURES = (*OF_COUNTS, "pixel_accuracy", "dice", "iou")
_OTHER_NAMES = {
    **dict.fromkeys(("recall", "sens", "se", "tpr"), "sensitivity"), **dict.fromkeys(("spec", "sp", "tnr"), "specificity"),
    **dict.fromkeys(("prec", "ppv"), "precision"), "acc": "accuracy",
}  # fmt: skip
_MOST = 5_000_000  # tables looked at, some hundred megabytes
_DECIMALS = 9
# Of an image and of a width of rounding: far more than floating point is wrong by, far less than one image of 100,000 moves.
_SLACK = 1e-6


@dataclass(frozen=True)
class Printed:
    """A figure as it is printed: `units` of its last decimal, `one` of which are 1 or 100 %. `cut`: decimals were cut off."""

    units: int
    one: int
    cut: bool = False

    @classmethod
    def read(cls, name: str, text: object, cut: bool = False) -> "Printed":
        """Of text such as "98.40", "98.4 %" or "0.984"; without a % sign a number above 1 is a percentage. Give text: as a number
        98.40 has lost its last decimal.

        Raises:
            DataError: an unknown name, no number, or one outside 0 to 1 and 0 to 100 %.
        """
        if name not in FIGURES:
            raise DataError(f"figure {name!r} is unknown; {nearest(name, FIGURES)}")
        told = re.fullmatch(r"(\d+)[.,]?(\d*)\s*(%?)|()[.,](\d+)\s*(%?)", str(text).strip())
        if told is None:
            raise DataError(f"{name}: found {text!r}; expected a figure as it is printed, such as 0.984 or 98.4")
        before, after, percent = told.groups("")[:3] if told[1] else told.groups("")[3:]
        units, one = int(before + after), 10 ** len(after)
        one *= 100 if percent or units > one else 1
        if units > one or len(after) > _DECIMALS:
            raise DataError(f"{name}: found {text!r}; expected 0 to 1, or 0 to 100 %, with {_DECIMALS} decimals at most")
        return cls(units, one, cut)

    @property
    def middle(self) -> float:
        """Of the values that are printed so."""
        return (self.units + self.cut / 2) / self.one

    def ends(self, wide: int = 1) -> tuple[float, float]:
        """The lowest and highest value in [0, 1] that is printed so, rounding taken `wide` times as wide."""
        return max(0.0, self.middle - wide / 2 / self.one), min(1.0, self.middle + wide / 2 / self.one)

    def __str__(self) -> str:
        return number(self.units / self.one, len(str(self.one)) - 1)


def figure_name(name: str) -> str:
    """What a figure is called here, of the head of a column: "F1-score" is f1, "recall" sensitivity."""
    plain = re.sub(r"[^a-z0-9_]", "", name.lower()).removesuffix("score").removeprefix("roc").strip("_")
    return _OTHER_NAMES.get(plain, plain)


def read_figures(figures: Mapping[str, object], cut: bool = False) -> dict[str, Printed]:
    """Figures by `figure_name`, as `Printed.read` takes them; empty ones are left out. Raises DataError, also where one is given
    twice."""
    given = {}
    for name, text in figures.items():
        if not _empty(text):
            if figure_name(name) in given:
                raise DataError(f"{name}: {figure_name(name)} is given twice; keep one of them")
            given[figure_name(name)] = text if isinstance(text, Printed) else Printed.read(figure_name(name), text, cut)
    return given


def _empty(text: object) -> bool:
    return text is None or str(text).strip() in ("", "nan")


# Of a table of n images, p of them positive and tp of these found: the false positives by which a figure is `value`.
_FALSE_POSITIVES = {
    "accuracy": lambda n, p, tp, value: n - p + tp - value * n,
    "specificity": lambda n, p, tp, value: (n - p) * (1 - value),
    "precision": lambda n, p, tp, value: tp * (1 / np.float64(value) - 1),
    "f1": lambda n, p, tp, value: 2 * tp / value - tp - p,
}


@dataclass(frozen=True)
class FigureCheck:
    """The figures of one test held to the counts that they could come from.

    `images`: the lowest and highest number of them that may have been tested. `positives`: how many are malignant; None takes
    every number of `prevalence`, from and to a share.
    """

    figures: Mapping[str, Printed]
    images: tuple[int, int]
    positives: int | None = None
    prevalence: tuple[float, float] = (0, 1)

    @classmethod
    def of(cls, row: Mapping[str, object], cut: bool = False) -> "FigureCheck":
        """Of a row of a table: `n` (151, or "600-719"), where they are known `positives` and `prevalence` ("0.35-0.65"), and
        figures, names of `OF_COUNTS`, as `read_figures` takes them; what else it holds is left aside.

        Raises:
            DataError: a figure or number that cannot be.

        Example:
            >>> FigureCheck.of({"n": 7, "sensitivity": "66.7", "specificity": "75"}).tables.to_dict("records")
            [{'images': 7, 'true_positives': 2, 'false_positives': 1, 'false_negatives': 1, 'true_negatives': 3}]
        """
        figures = read_figures({name: row[name] for name in row if figure_name(name) in OF_COUNTS}, cut)
        if not figures:
            raise DataError(f"no figure is given; expected one or more of {', '.join(OF_COUNTS)}")
        if _empty(row.get("n")):
            raise DataError("n is not given; expected the number of images tested, or its lowest and highest as in 600-719")
        (low, high), positives = map(int, _range("n", row["n"])), row.get("positives")
        if not 0 < low <= high <= _MOST:
            raise DataError(f"n: found {row['n']}; expected 1 to {whole(_MOST)} images, the lower number first")
        known = None if _empty(positives) else int(_range("positives", positives)[0])
        if known is not None and known > low:
            raise DataError(f"positives: found {known} of {low} images; expected no more than there are images")
        prevalence = (0, 1) if _empty(row.get("prevalence")) else _range("prevalence", row["prevalence"])
        if not prevalence[0] <= prevalence[1] <= 1:
            raise DataError(f"prevalence: found {row['prevalence']}; expected shares from 0 to 1, the lower one first")
        return cls(figures, (low, high), known, prevalence)

    def matching(self, wide: int = 1, without: str = "") -> pd.DataFrame:
        """All tables of counts from which the figures can be printed, without one of them, or with a rounding so many times as
        wide.

        An AUC rules a table out where no curve through its point, (1 − specificity, sensitivity), has that area.

        Returns:
            DataFrame, a row a table: `images` and the four `COUNTS`, int, by rising number of images and of positives.

        Raises:
            DataError: more tables to look at than memory holds.
        """
        read = {name: figure for name, figure in self.figures.items() if name != without}
        ends = {name: figure.ends(wide) for name, figure in read.items()}
        n = np.arange(self.images[0], self.images[1] + 1)
        n, p = _spread([n], *(n * part if self.positives is None else 0 * n + self.positives for part in self.prevalence))
        # What accuracy and F1 leave possible where there is no false positive, and what sensitivity says.
        accuracy, f1, (low, high) = (ends.get(name, (0, 1)) for name in ("accuracy", "f1", "sensitivity"))
        least = np.maximum.reduce([low * p, p - n * (1 - accuracy[0]), f1[0] * p / (2 - f1[0])])
        n, p, tp = _spread([n, p], least, high * p)
        low, high = np.zeros(len(n)), (n - p).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):  # a share of nothing bounds nothing: NaN
            for name in _FALSE_POSITIVES.keys() & ends.keys():
                few, many = (_FALSE_POSITIVES[name](n, p, tp, end) for end in ends[name][::-1])
                low, high = np.fmax(low, few), np.fmin(high, many)
        n, p, tp, fp = _spread([n, p, tp], low, high)
        tables = pd.DataFrame({"images": n, **dict(zip(COUNTS, (tp, fp, p - tp, n - p - fp), strict=True))})
        return tables[(_misses(read, tables) <= wide).all(axis=1)].reset_index(drop=True)

    @cached_property
    def tables(self) -> pd.DataFrame:
        """`matching` as printed."""
        return self.matching()

    @cached_property
    def nearest(self) -> pd.DataFrame:
        """The table whose worst figure lies nearest, as one row; no row where no number of malignant images can be."""
        wide, found = 1, self.tables
        while found.empty and wide < 4 * max(figure.one for figure in self.figures.values()):
            wide *= 2
            found = self.matching(wide)
        return found.iloc[_misses(self.figures, found).max(axis=1).argsort(kind="stable")[:1]]

    @property
    def told(self) -> str:
        """What was found, in sentences."""
        low, high = self.images
        of = f"{low} to {high} images" if low < high else count(low, "image")
        of += "" if self.positives is None else f" ({self.positives} malignant)"
        if len(self.tables):
            return f"{count(len(self.tables), 'table')} of counts of {of} can give these figures."
        none = f"No table of counts of {of} gives these figures."
        try:
            return " ".join([none, *self._near, *self._freed])
        except DataError as error:
            return f"{none} How near others come was not looked for: {error}."

    @property
    def _near(self) -> list[str]:
        if (best := self.nearest).empty:
            return []
        off = _misses(self.figures, best).iloc[0]
        values = {name: dict.fromkeys(number(end[0], 4) for end in _values(name, best)) for name in off.index[off > 1]}
        wrong = listed(f"{SCORES[name]} {' to '.join(found)} (printed {self.figures[name]})" for name, found in values.items())
        return [f"The nearest, {counts_told(best.iloc[0])}, has {wrong}."]

    @property
    def _freed(self) -> list[str]:
        found = {name: len(self.matching(without=name)) for name in self.figures if len(self.figures) > 1}
        told = listed(f"{tables} without {SCORES[name]}" for name, tables in found.items() if tables)
        return [f"Tables that fit with one figure less: {told}."] if found else []


def _range(name: str, text: object) -> tuple[float, float]:
    """The two ends of "600-719", or 151 twice. Raises DataError."""
    part = r"(\d{1,9})(?:\.0)?" if name != "prevalence" else r"(\d*\.?\d+)"
    told = re.fullmatch(rf"{part}(?:\s*[-–]\s*{part})?", str(text).strip())
    if told is None:
        raise DataError(f"{name}: found {text!r}; expected a number, or the lowest and highest as in 600-719 or 0.35-0.65")
    return float(told[1]), float(told[2] or told[1])


def _spread(columns: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Each row of the columns once for every whole number from low to high, and these numbers."""
    first = np.ceil(low - _SLACK).astype(np.int64)
    times = np.maximum(np.floor(high + _SLACK).astype(np.int64) - first + 1, 0)
    if times.sum() > _MOST:
        told = f"more than {whole(_MOST)} tables of counts to look at"
        raise DataError(f"{told}; give the number of malignant images, more figures or fewer images")
    numbers = np.arange(times.sum()) + np.repeat(first - times.cumsum() + times, times)
    return [*(np.repeat(column, times) for column in columns), numbers]


def _values(name: str, tables: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """A figure of each table, twice; of the AUC the least and greatest."""
    tp, fp, fn, tn = tables[list(COUNTS)].to_numpy(float).T
    if name == "auc":
        pairs = (tp + fn) * (fp + tn)
        with np.errstate(invalid="ignore"):  # of one class alone there is no AUC, whatever is printed
            return np.where(pairs, tp * tn / pairs, np.inf), np.where(pairs, 1 - fp * fn / pairs, np.inf)
    parts = {"accuracy": (tp + tn, fp + fn), "precision": (tp, fp), "sensitivity": (tp, fn), "f1": (2 * tp, fp + fn)}
    right, wrong = parts.get(name, (tn, fp))
    share = right / np.maximum(right + wrong, 1)
    return share, share


def _misses(figures: Mapping[str, Printed], tables: pd.DataFrame) -> pd.DataFrame:
    """How far the figures of each table lie from the middle of what is printed so, in widths of rounding: to 1 they agree."""
    found = {}
    for name, figure in figures.items():
        low, high = _values(name, tables)
        above = 2 * figure.one * (low - figure.middle) + (_SLACK if figure.cut else -_SLACK)  # a cut one ends below the next
        found[name] = np.maximum(above, 2 * figure.one * (figure.middle - high) - _SLACK)
    return pd.DataFrame(found, index=tables.index)


def counts_told(table: Mapping[str, int]) -> str:
    """`TP 26, FP 2, FN 1, TN 122 of 151`."""
    told = ", ".join(f"{name} {table[kind]}" for name, kind in zip(("TP", "FP", "FN", "TN"), COUNTS, strict=True))
    return f"{told} of {table['images']}"


def common_sizes(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The numbers of images and of malignant ones, `images` and `positives`, at which each of several tests has a table of
    `FigureCheck`, as tests of the same images must."""
    sizes = [set(zip(found["images"], found["true_positives"] + found["false_negatives"], strict=True)) for found in tables]
    return pd.DataFrame(sorted(set.intersection(*sizes)), columns=["images", "positives"])


def dice_of(iou: float) -> float:
    """The Dice of the same pixels, in [0, 1]."""
    return 2 * iou / (1 + iou)


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / max(one + other, 1e-12)


def _most_auc(sensitivity: float, specificity: float) -> float:
    return 1 - (1 - sensitivity) * (1 - specificity)


# Rule, the figure, those that it follows from, the least and most that follow, and whether that holds for means too.
_F1, _POINT = ("precision", "sensitivity"), ("sensitivity", "specificity")
_RULES = (
    ("F1 of precision and sensitivity", "f1", _F1, _harmonic, _harmonic, False),
    ("F1, means too", "f1", _F1, lambda one, other: one + other - 1, _harmonic, True),
    ("accuracy between sensitivity and specificity", "accuracy", _POINT, min, max, False),
    ("accuracy between sensitivity and specificity", "pixel_accuracy", _POINT, min, max, False),
    ("AUC of a curve through one point", "auc", _POINT, lambda one, other: one * other, _most_auc, False),
    ("AUC, if the curve is concave", "auc", _POINT, lambda one, other: (one + other) / 2, _most_auc, False),
    ("Dice of IoU, pixels counted together", "dice", ("iou",), dice_of, dice_of, False),
    ("Dice of IoU, means too", "dice", ("iou",), float, dice_of, True),
)


def consistency(figures: Mapping[str, object]) -> pd.DataFrame:
    """What printed figures say of each other, whatever the number of images.

    Args:
        figures: as `read_figures` takes them; names that are not in `FIGURES` are left aside.

    Returns:
        DataFrame, a row a rule whose figures are given: `rule`, `printed`, `low` and `high` (the range that follows), `agrees`,
        and `always`: whether the rule holds also where each figure is a mean over tests or images, which need not come from one
        table. The mean F1 is at most that of mean precision and sensitivity, and at least their sum less 1; the mean Dice is at
        least the mean IoU, and at most the Dice of that.
    """
    read, rows = read_figures({name: figures[name] for name in figures if figure_name(name) in FIGURES}), []
    for rule, name, needs, least, most, always in _RULES:
        if {name, *needs} <= read.keys():
            lows, highs = zip(*(read[need].ends() for need in needs), strict=True)
            low, high, (below, above) = max(0.0, least(*lows)), min(1.0, most(*highs)), read[name].ends()
            rows.append((rule, str(read[name]), low, high, below <= high + _SLACK and low - _SLACK <= above, always))
    found = pd.DataFrame(rows, columns=["rule", "printed", "low", "high", "agrees", "always"])
    return found.astype({"agrees": bool, "always": bool})
