"""What notebooks record: checked, converted, escaped, written atomically, or only shown."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.workbook import record as recording
from thyroid_utils.workbook.record import (
    as_text,
    html_table,
    latex_table,
    record,
    record_answer,
    record_figure,
    record_provenance,
    record_table,
)

COUNTS = pd.DataFrame({"a": [1]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_REPORT_DIR", str(tmp_path))
    monkeypatch.setenv("THYROID_NOTEBOOK", "04_segmenter_comparison")
    return tmp_path


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(recording, "_display", lambda data, metadata, **options: shown.append((data, metadata)))
    return shown


@pytest.fixture
def figure():
    made = Figure(figsize=(4, 3))
    made.subplots().plot([1, 2, 3])
    return made


def metrics(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["04_segmenter_comparison"]


def test_a_run_that_was_finished_before_its_sides_were_counted_has_a_provenance(folder):
    run = SimpleNamespace(data={"split_hash": "ab", "fingerprint": "cd", "patients": "as named"})
    run.environment, run.folds = {"device": "cpu", "precision": "32-true"}, (run,)
    record_provenance(run)
    told = {name: entry["value"] for name, entry in metrics(folder).items()}
    assert told["split_hash"] == "ab" and told["trained_on"] == "cpu, 32-true"
    assert told["data_left_out"] is None and told["data_sides"] is None


def test_values_are_kept_as_plain_json(folder):
    record("other", 1)
    estimate = Estimate(0.5, 0.25, math.nan, 3, 2)
    values = [np.float32(0.5), np.int64(3), np.bool_(True), estimate, "text", None, math.nan, np.float32("inf"), pd.NA]
    kept = [0.5, 3, True, {"value": 0.5, "low": 0.25, "high": None}, "text", None, None, None, None]
    for value, expected in zip(values, kept, strict=True):
        record("mean_dice", value, "Mean Dice", "%")
        assert metrics(folder)["mean_dice"] == {"value": expected, "label": "Mean Dice", "unit": "%"} and "other" in metrics(
            folder
        )


@pytest.mark.parametrize("name", ["Mean dice", "../x", "", "é"])
def test_a_name_that_is_no_snake_case_is_refused(folder, figure, name):
    with pytest.raises(ValueError, match="snake_case"):
        record(name, 1)
    with pytest.raises(ValueError, match="snake_case"):
        record_figure(figure, name, "c")
    with pytest.raises(ValueError, match="snake_case"):
        record_table(COUNTS, name, "c")
    with pytest.raises(TypeError, match="cannot keep a set"):
        record("a", {2})
    with pytest.raises(ValueError, match="answer is empty"):
        record_answer(" \n")
    with pytest.raises(ValueError, match="caption is empty"):
        record_figure(figure, "curve", "  ")
    assert not list(folder.iterdir())


def test_without_a_report_folder_everything_is_checked_and_shown_and_nothing_written(tmp_path, monkeypatch, displayed, figure):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    record("a", 1)
    with pytest.raises(TypeError):
        record("a", object())
    record_figure(figure, "curve", "A curve")
    record_table(COUNTS, "counts", "Counts")
    assert len(displayed) == 4 and not list(tmp_path.iterdir())


def test_a_figure_becomes_the_same_png_and_pdf_with_its_caption_and_is_closed(folder, displayed, figure):
    record_figure(figure, "curve", "A *curve*", cover=True)
    assert (folder / "figures" / "04_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / "04_curve.pdf").read_bytes().startswith(b"%PDF")
    (data, metadata), (caption, _) = displayed
    assert metadata["thyroid"] == {"figure": "figures/04_curve", "caption": "A *curve*", "cover": True}
    assert metadata["image/png"]["alt"] == "A *curve*" and 300 < metadata["image/png"]["width"] < 450
    assert data["image/png"].startswith(b"\x89PNG") and caption["text/markdown"] == r"*A \*curve\**"
    files = []
    for _ in range(2):
        made, axes = plt.subplots(figsize=(2, 2))
        axes.imshow(np.arange(16).reshape(4, 4))
        record_figure(made, "grid", "A grid")
        assert made.number not in plt.get_fignums()
        files.append([(folder / "figures" / f"04_grid.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert files[0] == files[1]


def test_nothing_to_show_is_said_in_words(folder, displayed):
    record_figure(None, "leaks", "Leaks", otherwise="No patient is on both sides.")
    record_table(COUNTS[:0], "leaks", "Leaks", otherwise="No patient is on both sides.")
    assert [data["text/plain"] for data, _ in displayed] == 2 * ["No patient is on both sides."] and not list(folder.iterdir())
    with pytest.raises(ValueError, match="otherwise"):
        record_figure(None, "leaks", "Leaks")


def test_tables_become_csv_latex_and_html_rounded_by_column_and_escaped(folder, displayed):
    table = pd.DataFrame({"Dice": [0.123456, 0.9]}, index=pd.Index(["U-Net_1", "R&D 5%"], name="model"))
    record_table(table, "scores", "Scores of 100% of the images")
    assert pd.read_csv(folder / "tables" / "04_scores.csv", index_col=0)["Dice"].tolist() == [0.123456, 0.9]
    latex = (folder / "tables" / "04_scores.tex").read_text()
    assert r"U-Net\_1 & 0.123 \\" in latex and r"R\&D 5\% & 0.900 \\" in latex and r"Scores of 100\% of" in latex
    assert latex.startswith("% \\usepackage{booktabs, graphicx}\n") and r"\resizebox{\ifdim\width>\linewidth" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    long = latex_table(pd.DataFrame({"why": ["so " * 30], "n": [2]}), "a ± σ", index=False)
    assert r"\begin{tabular}{p{6cm}r}" in long and r"\caption{a $\pm$ $\sigma$}" in long
    table = pd.DataFrame({"<x>": ["<script>alert(1)</script>", "a & b", "c"], "p": [0.00012, 0.0, math.nan]})
    shown = html_table(table.assign(n=pd.array([1, None, 3], dtype="Int64")), index=False)
    assert "<script" not in shown and "&lt;script&gt;" in shown and "<x>" not in shown and "<td>1</td>" in shown
    assert shown.count("&lt; 0.001") == 2 and ">–<" in shown and "nan" not in shown.lower() and "NA" not in shown
    rows = pd.MultiIndex.from_tuples([("a", "b")], names=["x", "y"])
    table = pd.DataFrame({("dice", "mean"): [1.0], ("dice", "sd"): [2.0]}, index=rows)
    assert "dice · mean" in html_table(table) and html_table(table).count("<td>") == 4
    assert r"a & b & 1.00 & 2.00 \\" in latex_table(table, "c")
    table = as_text(pd.DataFrame({"p": [0.0], "p_auc_holm": [0.04999], "p(malignant)": [0.0001]}), index=False)
    assert table.values.tolist() == [["< 0.001", "< 0.05", "0.0001"]]
    assert as_text(table[:0]).empty and list(as_text(table[:0], index=False)) == list(table)
    networks = pd.DataFrame({"mobilenet_v2": [1]}, index=pd.Index(["1"], name="fold_of"))
    assert list(as_text(networks)) == ["fold of", "mobilenet v2"]
    assert list(as_text(networks.rename_axis(columns="model"))) == ["fold_of", "mobilenet_v2"], "a network's name stays its name"
    columns = [[-9.1e-4, 0.006, 0.0], [-0.0004, 0.5, math.inf], [32.51, 3.9], [1234.0, 150.4], [1.2e-5, 3e-5], [1, 0, pd.NA]]
    columns += [True, None, False], [math.nan, math.nan]
    told = [as_text(pd.DataFrame({"a": pd.Series(cells, dtype=object)}), index=False)["a"].tolist() for cells in columns]
    assert told[:3] == [["−0.001", "0.006", "0.000"], ["0.000", "0.500", "∞"], ["32.51", "3.90"]]
    assert told[3:] == [["1234.00", "150.40"], ["0.00001", "0.00003"], ["1", "0", "–"], ["yes", "–", "no"], ["–", "–"]]
