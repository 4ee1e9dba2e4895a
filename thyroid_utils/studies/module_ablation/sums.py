"""Paper 003's figures held to each other: each is computed from others of the paper, or from the networks themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from thyroid_utils.models import parameter_count
from thyroid_utils.models.mobile_deeplab import convolution
from thyroid_utils.studies.module_ablation.tables import OURS, TABLES, count_parameters
from thyroid_utils.studies.papers import reported_scores

_KERNEL, _IN, _OUT = 3, 320, 256  # of the ASPP's dilated convolutions on MobileNetV2
_WATT, _MILLISECONDS = 0.85, 28.0  # told of a phone, an image


@dataclass(frozen=True)
class PixelTable:
    """The shares of pixels that Dice, sensitivity and specificity fix together; all in [0, 1].

    precision: from Dice = 2 · precision · sensitivity / (precision + sensitivity). prevalence: the share of pixels in a nodule,
    from the false positives that precision and specificity both count.
    """

    dice: float
    sensitivity: float
    specificity: float

    @property
    def precision(self) -> float:
        return self.dice * self.sensitivity / (2 * self.sensitivity - self.dice)

    @property
    def prevalence(self) -> float:
        false_per_true = (1 - self.precision) / self.precision * self.sensitivity
        return (1 - self.specificity) / (false_per_true + 1 - self.specificity)

    @property
    def accuracy(self) -> float:
        return self.prevalence * self.sensitivity + (1 - self.prevalence) * self.specificity

    def specificity_at(self, prevalence: float) -> float:
        """The specificity that Dice and sensitivity leave at another share of nodule pixels."""
        false = prevalence * self.sensitivity * (1 - self.precision) / self.precision
        return 1 - false / (1 - prevalence)


def sums_that_do_not_add_up(table: str | None = None) -> pd.DataFrame:
    """What paper 003 says, what follows from its other figures, and whether the two agree.

    Args:
        table: only what stands there: a name in `TABLES`, "loss" (Tables 3 and 8) or "text"; None gives all.

    Returns:
        DataFrame, a row a claim: `table`, `claim`, `paper` (what it says), `computed` (what follows), `how` (from what), `agrees`
        (bool).

    Raises:
        ValueError: no such place.
    """
    places = {"loss": _accuracy, "aspp": _convolution, "modules": _gains, "backbone": list, "method": list, "removed": list,
              "text": _energy}  # fmt: skip
    if table is not None and table not in places:
        raise ValueError(f"sums_that_do_not_add_up: table is {table!r}; expected one of {', '.join(places)}, or None")
    sizes = _sizes()
    rows = [(place, *row) for place, found in places.items() for row in [*found(), *sizes.get(place, [])]]
    found = pd.DataFrame(rows, columns=["table", "claim", "paper", "computed", "how", "agrees"])
    return found if table is None else found[found["table"] == table].reset_index(drop=True)


def _gains() -> list[tuple]:
    single = [TABLES["modules"].row(name).reported_iou for name in ("attention", "skips", "PPM")]
    together = TABLES["modules"].row("all three").reported_iou
    told = " + ".join(f"{gain:.2f}" for gain in single)
    how = "the sum of the three; gains need not add up, but nothing in the paper says why these do not"
    return [("gains of the three modules, points of IoU", f"{told} → {together:.2f}", f"{sum(single):.2f}", how,
             abs(sum(single) - together) < 0.005)]  # fmt: skip


def _convolution() -> list[tuple]:
    with torch.device("meta"):
        ordinary, separable = (_kernels(kind) for kind in (False, True))
    by_rule = 1 / _OUT + 1 / _KERNEL**2
    how = f"1/N + 1/k² = 1/{_OUT} + 1/{_KERNEL}² = {by_rule:.3f}; counted in the network {separable / ordinary:.3f}"
    return [("separable over ordinary convolution, weights", "about 1/3", f"{separable / ordinary:.3f}", how,
             abs(separable / ordinary - 1 / 3) < 0.05)]  # fmt: skip


def _kernels(separable: bool) -> int:
    return sum(parameter_count(part) for part in convolution(_IN, _OUT, _KERNEL, separable) if isinstance(part, torch.nn.Conv2d))


def _accuracy() -> list[tuple]:
    scores = reported_scores("segmentation").query("paper == '003' and model == @OURS", local_dict={"OURS": OURS})
    of_loss = {loss: table.set_index("score")["value"] for loss, table in scores.groupby("loss", sort=False)}
    tables = {loss: PixelTable(found["dice"], found["sensitivity"], found["specificity"]) for loss, found in of_loss.items()}
    rows = []
    for loss, found in of_loss.items():
        low, high = sorted([found["sensitivity"], found["specificity"]])
        within = low <= found["pixel_accuracy"] <= high
        name = {"tversky": "Tversky", "bce": "BCE"}[loss]
        rows.append((f"accuracy with {name}, %", _percent(found["pixel_accuracy"]), f"{_percent(low)} to {_percent(high)}",
                     "pooled over pixels it is a mean of sensitivity and specificity", within))  # fmt: skip
        of_dice = found["dice"] / (2 - found["dice"])
        rows.append((f"IoU with {name}, %", _percent(found["iou"]), _percent(of_dice), "Dice / (2 − Dice), so both are pooled",
                     abs(of_dice - found["iou"]) < 2e-4))  # fmt: skip
    shares = {loss: table.prevalence for loss, table in tables.items()}
    rows.append(("nodule pixels in the images of both losses, %", "one set of images",
                 f"{_percent(shares['tversky'])} and {_percent(shares['bce'])}", "from Dice, sensitivity and specificity of each",
                 abs(shares["tversky"] - shares["bce"]) < 0.01))  # fmt: skip
    repaired = tables["tversky"].specificity_at(shares["bce"])
    accuracy = shares["bce"] * tables["tversky"].sensitivity + (1 - shares["bce"]) * repaired
    how = f"with the share of nodule pixels that BCE's figures have; the accuracy is then {_percent(accuracy)}"
    rows.append(("specificity with Tversky, %", _percent(tables["tversky"].specificity), _percent(repaired), how,
                 abs(repaired - tables["tversky"].specificity) < 1e-3))  # fmt: skip
    return rows


def _sizes() -> dict[str, list[tuple]]:
    """Table → its claims on parameters."""
    ours, stock, separable = (
        count_parameters(OURS, **TABLES[table].row(row).switches)
        for table, row in (("modules", "all three"), ("aspp", "ordinary"), ("aspp", "separable"))
    )
    xception = count_parameters("deeplabv3plus_xception", separable_aspp=False)
    resnet = 4 * count_parameters(OURS, backbone="resnet50") / 2**20
    mebibytes = 4 * ours / 2**20
    size = f"{mebibytes:.1f} MiB"
    how = "counted in the networks here, whose widths the paper leaves open"

    def share(claim: str, told: str, found: float, low: float, high: float) -> tuple:
        return (claim, told, f"{found:.3f}", how, low <= found <= high)

    return {
        "aspp": [share("parameters with the separable ASPP over stock", "0.642", separable / stock, 0.60, 0.69)],
        "modules": [share("parameters of all modules over none", "0.85", ours / separable, 0.80, 0.90)],
        "backbone": [
            ("size in float32", "12.4 MB", size, f"{ours / 1e6:.2f} million parameters, {how}", 11.9 <= mebibytes <= 12.9),
            ("size on ResNet50", "125 MB", f"{resnet:.1f} MiB", how, 120 <= resnet <= 130),
        ],
        "method": [
            share("parameters over DeepLabV3+ on Xception", "0.06", ours / xception, 0.055, 0.065),
            share("parameters over U-Net", "about 1/10", ours / count_parameters("unet"), 0.09, 0.11),
        ],
    }


def _energy() -> list[tuple]:
    energy = f"{_WATT * _MILLISECONDS:.0f} mJ an image"
    return [("energy consumption", f"{_WATT} W", energy, f"a watt is power; energy is {_WATT} W · {_MILLISECONDS:.0f} ms", False)]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
