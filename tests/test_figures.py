"""Figures held to counts: against every table there is, by hand, at the edges of rounding, and what cannot be read."""

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import product

import pandas as pd
import pytest

from thyroid_utils.scores.checks import COUNTS
from thyroid_utils.scores.figures import FigureCheck, Printed, common_sizes, consistency, read_figures
from thyroid_utils.workbook.cli import main

PARTS = {
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
    "precision": lambda tp, fp, fn, tn: (tp, tp + fp),
    "sensitivity": lambda tp, fp, fn, tn: (tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: (tn, tn + fp),
    "f1": lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn),
}
# Table 1 of the TNUS paper, in per cent, and the counts it must have come from.
TNUS = {
    "VGG16": (("99.24", "99.69", "98.78", "99.24"), (325, 1, 4, 328)),
    "ResNet18": (("98.94", "99.09", "98.78", "98.93"), (325, 3, 4, 326)),
    "hybrid": (("97.11", "96.41", "97.87", "97.13"), (322, 12, 7, 317)),
    "ResNet34": (("96.20", "96.06", "96.35", "96.21"), (317, 13, 12, 316)),
    "VGG19": (("94.83", "98.36", "91.19", "94.64"), (300, 5, 29, 324)),
    "AlexNet": (("92.86", "90.52", "95.74", "93.06"), (315, 33, 14, 296)),
}


def printed(name: str, table: tuple[int, ...], how: str, places: str) -> str:
    part, of = PARTS[name](*table)
    return str((Decimal(100 * part) / Decimal(of or 1)).quantize(Decimal(places), how))


def tables(n: int) -> list[tuple[int, ...]]:
    return [(tp, fp, fn, n - tp - fp - fn) for tp, fp, fn in product(range(n + 1), repeat=3) if tp + fp + fn <= n]


@pytest.mark.parametrize(("names", "places"), [
    (("accuracy",), "0.1"), (("precision", "sensitivity"), "1"), (("f1", "accuracy"), "0.01"), (("specificity", "f1"), "1"),
    (("accuracy", "precision", "sensitivity", "f1"), "0.1"), (("sensitivity", "specificity", "accuracy"), "0.01"),
])  # fmt: skip
@pytest.mark.parametrize("how", [ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_DOWN])
def test_it_finds_the_tables_that_a_search_through_all_finds(names, places, how):
    everything, cut = tables(6), how == ROUND_DOWN
    for table in everything[::6]:
        figures = {name: f"{printed(name, table, how, places)} %" for name in names}
        found = FigureCheck.of({"n": 6, **figures}, cut).tables
        # Exactly: each value lies within half a unit of what is printed, or in the unit from it on where decimals are cut off.
        unit, fitting = Fraction(places) / 100, set()
        for other in everything:
            shares = [Fraction(part, of or 1) for part, of in (PARTS[name](*other) for name in names)]
            off = [share - Fraction(text[:-2]) / 100 for share, text in zip(shares, figures.values(), strict=True)]
            if all(0 <= each < unit if cut else abs(each) <= unit / 2 for each in off):
                fitting.add(other)
        assert set(found[list(COUNTS)].itertuples(index=False, name=None)) == fitting and table in fitting
        assert len(found) == len(fitting) and (found[list(COUNTS)].sum(axis=1) == 6).all()


@pytest.mark.parametrize("text", ["0.012", "0.013"])
def test_a_half_may_have_been_rounded_either_way(text):
    check = FigureCheck.of({"n": 80, "positives": "0", "accuracy": text})
    assert check.tables.values.tolist() == [[80, 0, 79, 0, 1]], "1 / 80 is 0.0125"


def test_the_only_counts_of_the_tnus_paper():
    names, test = ("accuracy", "precision", "recall", "f1"), {"n": "600-719", "prevalence": "0.35-0.65"}
    found = [FigureCheck.of({**test, **dict(zip(names, row, strict=True))}).tables for row, _ in TNUS.values()]
    assert common_sizes(found).values.tolist() == [[658, 329]]
    for table, (_, counts) in zip(found, TNUS.values(), strict=True):
        same = table.query("images == 658 and true_positives + false_negatives == 329")
        assert same[list(COUNTS)].values.tolist() == [list(counts)]


def test_an_area_under_the_curve_bounds_its_point():
    """TP 8 and FN 2, TN 6 and FP 4: an area of 0.8 · 0.6 = 0.48 at least, and of 1 − 0.2 · 0.4 = 0.92 at most."""
    point = {"sensitivity": "0.8", "specificity": "0.6"}
    areas = {"0.47": 0, "0.48": 1, "0.92": 1, "0.93": 0}
    assert {area: len(FigureCheck.of({"n": 20, "positives": 10, **point, "auc": area}).tables) for area in areas} == areas
    assert FigureCheck.of({"n": 3, "positives": 0, "auc": "0.5"}).tables.empty, "of one class there is none"
    rows = consistency({"sensitivity": "80", "specificity": "60", "auc": "0.65"}).set_index("rule")
    assert rows["agrees"].to_dict() == {"AUC of a curve through one point": True, "AUC, if the curve is concave": False}
    assert rows["low"].to_list() == pytest.approx([0.795 * 0.595, 0.695]) and rows["high"].iloc[0] == 1 - 0.195 * 0.395


@pytest.mark.parametrize(
    ("figures", "agrees"),
    [  # in the order of the rules: of one test or pooled, then of means
        ({"precision": ".939", "recall": ".978", "f1": ".957"}, [False, True]),  # of one test F1 is 0.9576 at least
        ({"precision": ".997", "recall": ".978", "f1": ".957"}, [False, False]),
        ({"precision": ".5", "recall": ".9", "f1": ".5"}, [False, True]),  # precisions 1 and 0, sensitivities 1 and 0.8
        ({"sensitivity": "98.37", "specificity": "98.59", "accuracy": "98.17"}, [False]),
        ({"sensitivity": "96.60", "specificity": "98.92", "accuracy": "98.20"}, [True]),
        ({"iou": ".6131", "dice": ".760"}, [True, True]),
        ({"iou": ".6131", "dice": ".868"}, [False, False]),
        ({"iou": ".50", "dice": ".60"}, [False, True]),
        ({"accuracy": ".9", "dice": ".9"}, []),
    ],
)
def test_figures_held_to_each_other(figures, agrees):
    assert consistency(figures)["agrees"].to_list() == agrees


def test_what_is_printed():
    for text in ("98.40", "98.40 %", "98,40", "0.9840", ".9840"):
        assert Printed.read("f1", text) == Printed(9840, 10000) and str(Printed.read("f1", text)) == "0.9840"
    assert Printed.read("auc", "1").ends() == (0.5, 1) and Printed.read("auc", "100").ends() == (0.995, 1)
    assert Printed.read("f1", "0.98", cut=True).ends() == pytest.approx((0.98, 0.99))
    assert read_figures({"recall": "0.9", "precision": "", "auc": None, "f1": float("nan")}) == {"sensitivity": Printed(9, 10)}


TOLD = {  # by hand: of 10 images 9 or 10 right are 0.9 or 1.0
    "--n 10 --accuracy 0.9 --positives 4": (0, ["2 tables of counts of 10 images (4 malignant) can", "images  true_positives"]),
    "--n 10 --accuracy 0.96 --positives 0": (1, ["The nearest, TP 0, FP 0, FN 0, TN 10 of 10, has accuracy 1.0000 (printed"]),
    "--n 10 --accuracy 1.0 --recall 0.50 --positives 4": (1, ["figure less: 7 without accuracy and 1 without sensitivity."]),
    "--n 9-11 --accuracy 0.98 --truncated": (1, ["No table of counts of 9 to 11 images", "printed 0.98"]),
    "--n 0 --accuracy 0.9": (2, ["n: found 0; expected 1 to 5"]),
    "--accuracy 0.9": (2, ["n is not given"]),
    "--n 10": (2, ["no figure is given"]),
    "--n 10 --accuracy 100.1": (2, ["accuracy: found '100.1'; expected 0 to 1, or 0 to 100 %"]),
    "--n 10 --accuracy=-0.9": (2, ["accuracy: found '-0.9'; expected a figure as it is printed"]),
    "--n 10 --accuracy nine": (2, ["found 'nine'"]),
    "--n 10 --accuracy 0.12345678901": (2, ["with 9 decimals at most"]),
    "--n 10 --accuracy 0.9 --positives 11": (2, ["positives: found 11 of 10 images"]),
    "--n 10 --accuracy 0.9 --prevalence 0.5-0.3": (2, ["prevalence: found 0.5-0.3; expected shares from 0 to 1"]),
    "--n 10-9 --accuracy 0.9": (2, ["n: found 10-9; expected"]),
    "--n 3000 --accuracy 0.98249 --auc 0.5": (1, ["gives these figures. How near others come was not looked for: more than 5"]),
    "--n 10 --accuracy 0.9 --prevalence 35-65": (2, ["prevalence: found 35-65; expected shares from 0 to 1"]),
    "--n 99999999999999999999 --accuracy 0.9": (2, ["n: found '99999999999999999999'; expected a number"]),
    "--n 99999999 --accuracy 0.9": (2, ["n: found 99999999; expected 1 to 5"]),
    "--n 1-100000 --accuracy 0.9": (2, ["more than 5", "give the number of malignant images"]),
}  # fmt: skip


@pytest.mark.parametrize("options", TOLD)
def test_the_command_says_what_fits_or_why_nothing_does(options, capsys):
    code, told = TOLD[options]
    assert main(["check-figures", *options.split()]) == code
    shown = "".join(capsys.readouterr())
    assert all(part in shown for part in told), shown


def test_a_table_of_ones_own(tmp_path, capsys):
    path, names = tmp_path / "own.csv", ("Accuracy", "Prec.", "recall", "F1-score")
    rows = [{"Model": name, "loss": "ce", **dict(zip(names, row, strict=True))} for name, (row, _) in TNUS.items()]
    pd.DataFrame(rows).to_csv(path, index=False)
    command = ["check-figures", str(path), "--n", "600–719", "--prevalence", "0.35-0.65"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "left aside: loss" in shown and "VGG16: 9 tables" in shown and "AlexNet: 1 table" in shown
    wrong = {"Model": "its\x1b name", "n": "12", "Prec.": "50.01"}
    pd.DataFrame([{"Model": "bad", "Accuracy": "105"}, *rows, wrong]).to_csv(path, index=False)
    assert main(command) == 2, "the other rows are checked"
    shown = capsys.readouterr()
    assert f"{path} line 2: accuracy: found '105'" in shown.err and "VGG16: 9" in shown.out and "its name: No table" in shown.out
    pd.DataFrame([*rows, wrong]).to_csv(path, index=False)
    assert main(command) == 1
    pd.DataFrame([{"n": 9, "sens": "50", "recall": "60"}]).to_csv(path, index=False)
    assert main(["check-figures", str(path)]) == 2 and "sensitivity is given twice; keep one" in capsys.readouterr().err
    path.write_text("model,n\n")
    assert main(["check-figures", str(path)]) == 2 and "no rows below its header" in capsys.readouterr().err


def test_nothing_is_near_where_no_class_count_can_be():
    check = FigureCheck(read_figures({"accuracy": "0.9"}), (3, 3), prevalence=(0.4, 0.5))
    assert check.tables.empty and check.nearest.empty
    assert check.told == "No table of counts of 3 images gives these figures."
