"""Figures: what is drawn are the numbers of the data, and nothing is left open behind."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.images import write_png
from thyroid_utils.data.phantom.cases import phantom_cases, simulation_stages
from thyroid_utils.data.phantom.scanners import homogeneous_phantom, rayleigh_fit
from thyroid_utils.data.splits import split_cases
from thyroid_utils.data.table import label_names, make_cases, measure_cases
from thyroid_utils.plots import exploration, findings, phantoms, pictures, segmentation
from thyroid_utils.studies import tables


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """12 frames of 60×48 from 8 patients: 4 benign, 6 malignant, 2 unlabelled; a dark disc on noise is the nodule."""
    folder = tmp_path_factory.mktemp("frames")
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        image = random.integers(80, 140, (48, 60)).astype(np.uint8)
        y, x = np.ogrid[:48, :60]
        mask = (y - 24) ** 2 + (x - 25 - number) ** 2 < (5 + number % 4) ** 2
        image[mask] //= 2
        rows.append(
            {
                "case": f"drawn/{number}",
                "image": str(write_png(folder / f"{number}.png", image)),
                "mask": str(write_png(folder / f"{number}_mask.png", mask)),
                "label": [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, pd.NA, pd.NA][number],
                "patient": f"patient-{number * 2 // 3}",
                "dataset": "drawn",
                "tirads": ["2", "2", "3", "3", "4a", "4a", "4b", "4b", "5", "5", pd.NA, pd.NA][number],
                "pane": ["left", "right"][number % 2],
                "shape": ["wide", "tall"][number // 6],
            }
        )
    return make_cases(rows)


def saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def bar_lengths(axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def test_count_bars_are_the_counts(cases):
    figure = exploration.counts(cases, "pane")
    first, views, pane = figure.axes
    images = pd.crosstab(pd.Series("images", index=cases.index), label_names(cases)).loc["images"]
    assert bar_lengths(first)[::2] == [images["benign"], images["malignant"], images["unlabelled"]]
    assert sum(patch.get_height() for patch in views.patches) == cases["patient"].nunique()
    assert sum(bar_lengths(pane)) == len(cases)
    assert "count" in first.get_xlabel() and pane.get_xlabel() == "images"


def test_tirads_and_split_bars_count_every_image_once(cases):
    assert sum(bar_lengths(exploration.tirads(cases).axes[0])) == len(cases)
    split = split_cases(cases, (0.5, 0.5), require_classes=False)
    images, patients = exploration.split_bars(split).axes
    assert sum(bar_lengths(images)) == len(cases) and sum(bar_lengths(patients)) == cases["patient"].nunique()


def test_sizes_areas_and_intensities(cases):
    measures = measure_cases(cases)
    sizes = exploration.frame_sizes(measures.table).axes[0]
    assert bar_lengths(sizes) == [12] and "n = 12" in sizes.get_title(loc="left")
    many = measures.table.assign(width=range(100, 112))
    many = pd.concat([many, many.assign(height=90)])
    assert len(exploration.frame_sizes(many).axes[0].collections[0].get_offsets()) == 24
    areas = exploration.areas_and_positions(measures, label_names(cases))
    assert "% of the frame" in areas.axes[0].get_xlabel()
    maps = [image for axes in areas.axes for image in axes.images]
    assert len(maps) >= 3
    for name, drawn in zip(["benign", "malignant", "unlabelled"], maps, strict=False):
        np.testing.assert_allclose(drawn.get_array(), 100 * measures.positions[name])
    assert len(exploration.intensities(measures).axes) == 3


def test_a_panel_carries_id_class_and_outline(cases):
    panel = pictures.case_panel(cases, "drawn/4")
    assert panel.title == "drawn/4\nmalignant, TI-RADS 4a"
    assert "patient" not in panel.title
    figure = pictures.panel_grid([panel, pictures.Panel(np.zeros((10, 10)), "flat", boxes={"red": (1, 5, 2, 6)})], 2)
    assert len(figure.axes[0].collections) == 1  # the outline
    box = next(patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle))
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 0.5, 4, 4)


def test_the_gallery_shows_each_class_and_prefers_different_patients(cases):
    figure = pictures.gallery(cases, columns=3, each=2)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sum("benign" in title for title in titles) == 2 and sum("malignant" in title for title in titles) == 2
    shown = [title.split("\n")[0] for title in titles if title]
    assert cases.loc[shown, "patient"].nunique() == len(shown)


def test_an_empty_grid_says_so():
    with pytest.raises(ValueError, match="no panel to draw"):
        pictures.panel_grid([])


def test_the_same_data_gives_the_same_file_and_no_figure_stays_open(cases):
    assert saved(exploration.counts(cases)) == saved(exploration.counts(cases))
    assert plt.get_fignums() == []


def test_the_session_style_is_neither_used_nor_changed(cases):
    with plt.rc_context({"axes.facecolor": "red", "font.size": 30}):
        figure = exploration.counts(cases)
        assert plt.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)


def test_tables(cases):
    counts = tables.class_counts(cases)
    assert counts.loc["all"].tolist() == [12, 8, 12] and counts.loc["malignant", "images"] == 6
    measured = tables.measures_by_class(measure_cases(cases), cases)
    assert measured.loc["benign", "patients"] == 3 and "[" in measured.loc["benign", "area, % of frame"]
    traits = tables.malignant_by_trait(cases)
    assert traits.loc[("shape", "tall"), "malignant"] <= traits.loc[("shape", "tall"), "patients"]
    assert traits["patients"].sum() == cases[cases["label"].notna()]["patient"].nunique()


@pytest.fixture(scope="module")
def simulated():
    return phantom_cases(patients=4, size=96, views=(2, 2))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_findings_show_what_the_audit_names(cases, tmp_path):
    doubled = cases.copy()
    doubled.loc["drawn/5", "image"] = doubled.at["drawn/0", "image"]  # another patient's picture
    specked = np.zeros((48, 60), bool)
    specked[10:30, 10:30] = True
    specked[40, 50] = True
    doubled.loc["drawn/1", "mask"] = str(write_png(tmp_path / "specked.png", specked))
    audit = audit_cases(doubled)
    shown = titles(findings.identical_images(doubled, audit))
    assert [title.split("\n")[0] for title in shown] == ["drawn/0", "drawn/5"]
    figure = findings.mask_problems(doubled, audit, ("specks",))
    assert len(titles(figure)) == 1 and titles(figure)[0].startswith("drawn/1\nspecks, ")
    assert len(figure.axes[0].patches) == 1, "a box around pixels that may be too few to be seen"
    assert findings.identical_images(cases, audit_cases(cases)) is None


def test_near_pairs_and_marks_of_phantoms(simulated):
    audit = audit_cases(simulated)
    shown = titles(findings.near_identical_images(simulated, audit, pairs=2))
    assert any("same patient" in title for title in shown) and any("correlation" in title for title in shown)
    marked = findings.burned_in_marks(simulated, audit, count=2)
    assert all("text regions" in title for title in titles(marked))


def test_exposure_bars_are_the_mean_shares(cases):
    audit = audit_cases(cases)
    splits = {rule: [split_cases(cases, (0.5, 0.5), by=rule, seed=seed) for seed in (0, 1)] for rule in ("patient", "image")}
    table = tables.exposure(splits, audit.clusters)
    drawn = bar_lengths(findings.exposure_bars(table).axes[0])
    assert drawn == pytest.approx([100 * share for share in table["mean"]])
    assert table.set_index(["split by", "training holds"]).loc[("patient", "same patient"), "highest"] == 0


def test_phantom_figures(simulated, cases):
    stages = simulation_stages(size=96)
    assert len([axes for axes in phantoms.simulation(stages).axes if axes.get_title(loc="left")]) == len(stages)
    assert sum("drawn/" in title for title in titles(phantoms.beside_real(simulated, cases, count=3))) == 3
    envelope = homogeneous_phantom((128, 128))
    figure = phantoms.speckle(envelope, rayleigh_fit(envelope), {"phantoms": np.array([1.8, 1.9, 2.0])})
    assert "n = 3" in figure.axes[1].get_xticklabels()[0].get_text()


def test_marks_by_class_counts_patients(cases):
    images = pd.DataFrame({"callipers": [0] * 4 + [2, 2] + [0] * 6, "text_regions": [3] * 12}, index=cases.index)
    table = tables.marks_by_class(cases, images)
    assert table["with callipers, %"].tolist()[0].startswith("0 [0, ") and table.at["benign", "with callipers, %"] != "0 [0, 0]"
    assert table.at["malignant", "with callipers, %"].startswith("40 [12, 77]")  # two of five patients
    assert (table["text regions an image"] == "3.0 [3.0, 3.0]").all()


def scored_images() -> pd.DataFrame:
    """Two models on six images: from a hundredth of a percent of the frame to a fifth, one without a nodule."""
    share = np.array([0.0001, 0.0004, 0.002, 0.03, 0.2, 0.0])
    one = pd.DataFrame({"case": list("abcdef"), "area": 1e5 * share, "share": share, "diameter_mm": np.sqrt(share) * 50})
    one["dice"] = [0.1, 0.3, 0.5, 0.8, 0.9, np.nan]
    return pd.concat([one.assign(model="first"), one.assign(model="second")], ignore_index=True)


def test_the_spread_counts_the_images_that_have_the_score():
    table = scored_images()
    place = segmentation.score_spread(table, "dice", "Dice", ["first", "second"]).axes[0]
    assert place.get_xlabel() == "Dice, n = 5 images"
    table.loc[table["model"].eq("second") & table["case"].isin(["a", "b"]), "dice"] = np.nan
    place = segmentation.score_spread(table, "dice", "Dice", ["first", "second"]).axes[0]
    assert place.get_xlabel() == "Dice, n = 3 to 5 images, by model"
    assert segmentation.score_spread(table, "dice", "Dice", ["second"]).axes[0].get_xlabel() == "Dice, n = 3 images"


@pytest.mark.parametrize(
    "spacing, label, ticks",
    [
        ("known", "diameter of a disc of the nodule's area, mm (log scale)", ["0.5", "1", "2.24", "8.66", "22.4"]),
        ("partly known", "nodule, % of the frame (log scale)", ["0.01", "0.04", "0.2", "3", "20"]),
        ("unknown", "nodule, % of the frame (log scale)", ["0.01", "0.04", "0.2", "3", "20"]),
    ],
)
def test_sizes_are_in_mm_where_all_are_known_and_no_tick_of_a_small_nodule_says_0(spacing, label, ticks):
    table = scored_images()
    table.loc[{"known": [], "partly known": [0], "unknown": table.index}[spacing], "diameter_mm"] = np.nan
    place = segmentation.score_by_size(table, "dice", "Dice", "first").axes[0]
    assert place.get_xlabel() == label and place.get_xscale() == "log"
    assert [text.get_text() for text in place.get_xticklabels()] == ticks
    assert place.get_xticks().tolist() == [float(tick) for tick in ticks]
