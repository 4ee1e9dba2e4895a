"""Figures about the simulator: its stages, its frames beside real ones, and its speckle against theory."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.overlays import find_echo_area
from thyroid_utils.data.phantom.scanners import RAYLEIGH_SNR, RayleighFit
from thyroid_utils.plots.pictures import Panel, case_title, panel_grid
from thyroid_utils.plots.style import ACCENT, NEUTRAL, SPLIT_COLOURS, TRUTH, bare, new_figure, styled

_UNITS = {
    "echogenicity": ("dB", "cividis"),
    "attenuation": ("dB/cm/MHz", "cividis"),
    "loss": ("dB", "cividis"),
    "scatterers": ("real part", "gray"),
    "echo": ("real part", "gray"),
    "envelope": ("amplitude", "gray"),
}


@styled
def simulation(stages: dict[str, np.ndarray]) -> Figure:
    """From tissue to frame, one panel a stage, each quantity with its unit.

    Args:
        stages: name → array (height, width), of `simulation_stages`.
    """
    columns = 3
    rows = -(-len(stages) // columns)
    figure, axes = new_figure(rows, columns, 2.9 * rows)
    for place in axes.flat:
        bare(place)
    for number, (place, (name, values)) in enumerate(zip(axes.flat, stages.items(), strict=False), start=1):
        unit, colours = _UNITS.get(name, ("", "gray"))
        low, high = (0, 255) if values.dtype == np.uint8 else np.quantile(values, [0.005, 0.995])
        drawn = place.imshow(values, cmap=colours, vmin=low, vmax=high if high > low else low + 1)
        place.set_title(f"{number}. {name}")
        if unit:
            figure.colorbar(drawn, ax=place, shrink=0.8, pad=0.02).set_label(unit, fontsize=8.5)
    return figure


def _echo_panel(cases: pd.DataFrame, case: str) -> Panel:
    row = cases.loc[case]
    gray = read_gray(row["image"])
    box = find_echo_area(gray)
    outlines = {} if pd.isna(row["mask"]) else {TRUTH: box.crop(read_mask(row["mask"], gray.shape))}
    return Panel(box.crop(gray), case_title(case, row), outlines)


def beside_real(phantoms: pd.DataFrame, real: pd.DataFrame, count: int = 4, seed: int = 0) -> Figure:
    """Phantoms (upper rows) and real frames (lower rows), cut to the echo image so that only tissue is compared.

    Args:
        phantoms, real: case tables, each with `count` cases or more.
        count: how many of each.
        seed: which ones are drawn.
    """
    panels = []
    for cases in (phantoms, real):
        one_each = cases.sample(frac=1, random_state=seed).drop_duplicates("patient")
        panels += [_echo_panel(cases, case) for case in sorted(one_each.index[:count])]
    return panel_grid(panels, count, ["simulated", "real"])


@styled
def speckle(envelope: np.ndarray, fit: RayleighFit, patches: dict[str, np.ndarray]) -> Figure:
    """First-order speckle statistics: the envelope of a homogeneous phantom against Rayleigh, and the SNR of patches of frames.

    Args:
        envelope: (height, width) of a homogeneous phantom.
        fit: of `rayleigh_fit`.
        patches: name of a set of frames → SNR (mean/SD of the decompressed envelope) of its homogeneous patches, (n,).
    """
    figure, axes = new_figure(1, 2, 3.1, width_ratios=[1.15, 1])
    values = np.asarray(envelope).ravel() / fit.scale
    levels = np.linspace(0, 4.5, 200)
    axes[0, 0].hist(
        values, bins=np.linspace(0, 4.5, 46), density=True, color=ACCENT, alpha=0.45, label=f"simulated, SNR {fit.snr:.2f}"
    )
    curve = levels * np.exp(-(levels**2) / 2)
    axes[0, 0].plot(levels, curve, color="#2b323a", linewidth=1.6, label=f"Rayleigh, SNR {RAYLEIGH_SNR:.2f}")
    axes[0, 0].set(xlabel="envelope / Rayleigh scale", ylabel="probability density", title="Homogeneous phantom")
    axes[0, 0].legend(loc="upper right")
    names = [f"{name}\n(n = {len(snr)} patches)" for name, snr in patches.items()]
    colours = [ACCENT, SPLIT_COLOURS["test"], NEUTRAL][: len(names)]
    drawn = axes[0, 1].boxplot(list(patches.values()), positions=range(len(names)), widths=0.5, patch_artist=True, sym=".")
    for box, line, colour in zip(drawn["boxes"], drawn["medians"], colours, strict=True):
        box.set(facecolor=colour, alpha=0.75)
        line.set_color("#2b323a")
    axes[0, 1].axhline(RAYLEIGH_SNR, color="#2b323a", linestyle="--", linewidth=1.2)
    axes[0, 1].set_xticks(range(len(names)), names)
    axes[0, 1].set(ylabel="speckle SNR, mean / SD", title=f"Patches of frames (dashed: theory {RAYLEIGH_SNR:.2f})")
    axes[0, 1].set_ylim(bottom=0)
    return figure
