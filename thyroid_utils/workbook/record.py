"""What a notebook leaves behind: key numbers, figures and tables, as files beside its report.

The runner names the output folder in `THYROID_REPORT_DIR` and the notebook in `THYROID_NOTEBOOK`. Without them (JupyterLab,
nbval) everything is checked and displayed in the same way, and nothing is written.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import display
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from thyroid_utils.common.files import csv_text, write_bytes, write_text
from thyroid_utils.common.words import UNKNOWN, literal, number, p_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thyroid_utils.training.ledger import Run

FIGURE_DPI = 150
_ANSWER = "answer"  # the display's name: a notebook has one
_SCREEN_DPI = 96  # CSS pixels an inch: a figure is shown at its true size on an ordinary screen


def answer_here() -> None:
    """Mark the place, below the question, where `record_answer` shows the answer."""
    waiting = "The answer appears here once the notebook has run."
    _display({"text/markdown": f"*{waiting}*", "text/plain": waiting}, {"thyroid": {"answer": None}}, display_id=_ANSWER)


def record_answer(text: str) -> None:
    """Answer the notebook's question in `text`, one to three sentences of markdown in one paragraph, computed.

    Shown where `answer_here` was called and on the index. A later call replaces it. Raises ValueError for an empty text.
    """
    text = " ".join(text.split())
    if not text:
        raise ValueError("the answer is empty; where the run cannot say, say so and why")
    shown = {"text/markdown": f"**Answer.** {text}", "text/plain": text}
    _display(shown, {"thyroid": {"answer": text}}, display_id=_ANSWER, update=True)


def record(name: str, value: Any, label: str | None = None, unit: str | None = None) -> None:
    """Keep one of the notebook's key numbers in `metrics.json`; the same name recorded again replaces the earlier value.

    name: snake_case, unique in the notebook. value: number, text, bool, None or an `Estimate`, which is shown with its interval;
    NaN and infinity become null. label: what the index writes beside it. unit: e.g. "mm", "%". Names that start with `data_`,
    `split_` or `trained_` are shown with the provenance, not among the key numbers. Raises ValueError for a bad name, TypeError
    for another type of value.
    """
    _check(name)
    entry = {"value": _plain(value, name), "label": label, "unit": unit}
    folder, notebook = _where()
    if folder is None:
        return
    target = folder / "metrics.json"
    metrics = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    metrics.setdefault(notebook, {})[name] = entry
    write_text(target, json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def record_provenance(run: Run) -> None:
    """Keep the names of a run's split and data, who its patients are, how many images are on each side and how many were left
    out, and where it was trained; of folds the counts are the first one's. That no patient is on two sides was checked when the
    split was made, and runs of a split by image are marked leaky."""
    first = run.folds[0]
    record("split_hash", run.data["split_hash"])
    record("data_fingerprint", run.data["fingerprint"])
    record("data_patients", first.data["patients"], "patients are")
    record("data_left_out", first.data.get("left_out"), "images left out for want of a label or mask")
    sides = first.data.get("sides", {}).items()  # older runs have neither
    told = [f"{side} {', '.join(f'{kind} {size[0]} of {size[1]}' for kind, size in kinds.items())}" for side, kinds in sides]
    record("data_sides", "; ".join(told) or None, "images of patients")
    record("trained_on", f"{first.environment['device']}, {first.environment['precision']}", "trained on")


def record_figure(figure: Figure | None, name: str, caption: str, *, cover: bool = False, otherwise: str | None = None) -> None:
    """Show a figure with its caption, keep it as `figures/NN_name.png` (150 dpi) and `.pdf` (vector), and close it.

    name: snake_case. caption: one plain sentence or two, also the text for readers who cannot see the picture. cover: use this
    figure as the notebook's thumbnail on the index instead of its first. otherwise: the sentence shown where `figure` is None
    because there is nothing to draw. Raises ValueError for a bad name, an empty caption, or None without `otherwise`.
    """
    _check(name, caption)
    if figure is None:
        if not otherwise:
            raise ValueError(f"{name}: there is no figure; say in `otherwise` what that means")
        _display_text(otherwise, otherwise)
        return
    image = _rendered(figure, "png", dpi=FIGURE_DPI)
    folder, notebook = _where()
    file = f"figures/{notebook.split('_')[0]}_{name}"
    if folder is not None:
        write_bytes(folder / f"{file}.png", image)
        write_bytes(folder / f"{file}.pdf", _rendered(figure, "pdf", dpi=FIGURE_DPI, metadata={"CreationDate": None}))
    plt.close(figure)  # otherwise the inline backend shows it a second time, and open figures pile up
    width, height = (int.from_bytes(image[start : start + 4], "big") for start in (16, 20))  # the PNG header
    scale = _SCREEN_DPI / FIGURE_DPI
    _display(
        {"image/png": image, "text/plain": f"Figure: {caption}"},
        {
            "image/png": {"alt": caption, "width": round(width * scale), "height": round(height * scale)},
            "thyroid": {"figure": file, "caption": caption, "cover": cover},
        },
    )
    _display_caption(caption)


def record_table(
    table: pd.DataFrame, name: str, caption: str, *, digits: int = 3, index: bool = True, otherwise: str | None = None
) -> None:
    """Show a table with its caption and keep it as `tables/NN_name.csv` (unrounded) and `.tex` (numbers rounded to `digits`).

    name: snake_case. digits: decimals of the shown and the LaTeX numbers. index: whether the row names belong to the table.
    otherwise: the sentence shown in place of a table without rows, else nothing.
    All text of the table is escaped. Raises ValueError for a bad
    name or an empty caption.
    """
    _check(name, caption)
    if table.empty:
        if otherwise:
            _display_text(otherwise, otherwise)
        return
    folder, notebook = _where()
    file = f"tables/{notebook.split('_')[0]}_{name}"
    if folder is not None:
        write_text(folder / f"{file}.csv", csv_text(table, hyphens=True, index=index))
        write_text(folder / f"{file}.tex", latex_table(table, caption, digits=digits, index=index))
    shown = {
        "text/html": html_table(table, digits=digits, index=index),
        "text/plain": as_text(table, digits, index).to_string(index=False),
    }
    _display(shown, {"thyroid": {"table": file, "caption": caption}})
    _display_caption(caption)


def as_text(table: pd.DataFrame, digits: int = 3, index: bool = True) -> pd.DataFrame:
    """A table as it is read: one number of decimals a column, `digits` of them; p-values in a
    column of theirs; names with spaces for underscores, but not where the columns are called "model"; the row names as first
    columns."""
    told = str if table.columns.name == "model" else _join
    if index:
        table = table.rename_axis(index=[name or "" for name in table.index.names]).reset_index(allow_duplicates=True)
    shown = [_shown([_scalar(value) for value in column], told(name), digits) for name, column in table.items()]
    return pd.DataFrame(dict(enumerate(shown)), index=table.index).set_axis([told(name) for name in table.columns], axis=1)


def html_table(table: pd.DataFrame, *, digits: int = 3, index: bool = True) -> str:
    """A plain HTML table, numbers rounded to `digits`, everything escaped."""
    with pd.option_context("display.max_colwidth", None):
        return as_text(table, digits, index).to_html(index=False, border=0)


def latex_table(table: pd.DataFrame, caption: str, *, digits: int = 3, index: bool = True) -> str:
    """A LaTeX table no wider than the column it stands in, numbers rounded to `digits`, special characters escaped.

    It states the packages that it needs: booktabs for its lines, graphicx to be made smaller where it is too wide.
    """
    shown = as_text(table, digits, index)
    numbers = [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in table.dtypes]
    numbers = [False] * (shown.shape[1] - len(numbers)) + numbers
    longest = [max(map(len, shown.iloc[:, place]), default=0) for place in range(len(numbers))]
    columns = ["r" if is_number else "p{6cm}" if long > 50 else "l" for is_number, long in zip(numbers, longest, strict=True)]
    rows = shown.map(_latex).rename(columns=_latex).to_latex(index=False, escape=False, column_format="".join(columns))
    return (
        "% \\usepackage{booktabs, graphicx}\n\\begin{table}\n\\centering\\footnotesize\n"
        f"\\caption{{{_latex(caption)}}}\n\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n"
        f"{rows.strip()}}}\n\\end{{table}}\n"
    )


def _where() -> tuple[Path | None, str]:
    """The output folder, if there is one, and the notebook's name."""
    folder = os.environ.get("THYROID_REPORT_DIR")
    return Path(folder) if folder else None, os.environ.get("THYROID_NOTEBOOK", "notebook")


def _check(name: str, caption: str = "none") -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,79}", name):
        raise ValueError(f"name {name!r}: expected snake_case like mean_dice (it becomes a key and a file name)")
    if not caption.strip():
        raise ValueError(f"{name}: the caption is empty; say what is to be seen (it is also the text for who cannot see it)")


def _plain(value: Any, name: str) -> Any:
    """`value` as JSON holds it; null is what JSON cannot say."""
    if hasattr(value, "low") and hasattr(value, "high"):  # an Estimate
        return {part: _plain(getattr(value, part), name) for part in ("value", "low", "high")}
    value = _scalar(value)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"record {name!r}: cannot keep a {type(value).__name__}; give a number, text, bool, None or an Estimate")


def _scalar(value: Any) -> Any:
    """A numpy or torch scalar as Python's own, a missing value of pandas as None."""
    if value is pd.NA or value is pd.NaT:
        return None
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _rendered(figure: Figure, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, bbox_inches="tight", facecolor="white", **options)
    return stream.getvalue()


def _display(data: dict[str, Any], metadata: dict[str, Any], **options: Any) -> None:
    if get_ipython() is not None:  # a plain script has nowhere to show it
        display(data, raw=True, metadata=metadata, **options)


def _display_text(markdown: str, plain: str, **note: Any) -> None:
    _display({"text/markdown": markdown, "text/plain": plain}, {"thyroid": note} if note else {})


def _display_caption(caption: str) -> None:
    """The caption for JupyterLab; the report sets its own below the figure or above the table."""
    _display_text(f"*{literal(' '.join(caption.split()))}*", caption, repeats_caption=True)


def _shown(cells: list, name: str, digits: int) -> list[str]:
    """The cells of a column as text. Decimals: two are enough where no number is below 1; one digit of the largest is needed."""
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and cell and math.isfinite(cell)]
    if sizes:
        digits = max(digits if min(sizes) < 1 else min(digits, 2), -math.floor(math.log10(max(sizes))))
    told = p_number if re.match(r"p($|[ ,])", name) else partial(number, digits=digits)
    return [told(cell) if isinstance(cell, float) else _WORDS[cell] if cell is None or isinstance(cell, bool) else str(cell)
            for cell in cells]  # fmt: skip


_WORDS = {None: UNKNOWN, True: "yes", False: "no"}


def _join(name: Any) -> str:
    """A column's name as it is read: several levels in a row, a name from the code with spaces for its underscores."""
    parts = name if isinstance(name, tuple) else (name,)
    words = (str(part).replace("_", " ") if _SNAKE_CASE.fullmatch(str(part)) else str(part) for part in parts)
    return " · ".join(word for word in words if word) if isinstance(name, tuple) else next(words)


_SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$",
    "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", "∞": r"$\infty$", "≥": r"$\geq$", "≤": r"$\leq$", "²": "$^2$", "µ": r"$\mu$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "σ": r"$\sigma$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
