"""HTML of notebooks and of the index: formulas, figures, tables, what cells print, nothing that loads, runs or names a path."""

import base64
import html
import io
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from thyroid_utils.workbook.markdown import formula, markdown
from thyroid_utils.workbook.pages import Scrubber, duration_text, number_text
from thyroid_utils.workbook.report import mentioned_runs, render_index, render_report, thumbnail

RECORD = {
    "stem": "01_x", "number": "01", "title": "T", "question": "", "status": "finished", "started": "2026-01-02T03:04:05+00:00",
    "duration": 1.0, "parameters": {"A": "<b>"}, "commit": None, "error": None, "answer": None, "rerun": None,
    "figures": [], "tables": [], "show_code": False, "parameter_file": "x.yaml", "versions": {"python": "3.11"},
    "hardware": "P, 2 cores",
}  # fmt: skip
RUN = {"title": "Run & more"}


def page(*cells: nbformat.NotebookNode, **record) -> str:
    node = new_notebook(cells=[new_markdown_cell("# T\n\nQuestion?"), *cells])
    return render_report(node, {**RECORD, **record}, RUN, {"previous": None, "next": None}, {})


def showing(data: dict, metadata: dict | None = None) -> nbformat.NotebookNode:
    return new_code_cell("x", outputs=[new_output("display_data", data, metadata=metadata or {})])


def png(shape=(40, 30), noise=False) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8) if noise else np.zeros((*shape, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("latex", "rows"),
    [
        (r"\mathcal{L} = -\alpha_t (1 - p_t)^\gamma \log p_t, \operatorname{SNR} \approx \frac{\mu}{\sigma}", 0),
        (r"\begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}", 2),
        *((rf"\begin{{{name}}} a &= b \\ c &= d \end{{{name}}}", 2) for name in ("aligned", "gathered", "align*", "split")),
    ],
)
def test_formulas_of_the_field_become_mathml(latex, rows):
    shown = formula(latex, "block")
    assert shown.startswith("<math") and 'display="block"' in shown and shown.count("<mtr>") == rows
    assert not re.search(r"\\[a-zA-Z]|&<", shown), shown


@pytest.mark.parametrize("latex", ["a^b^c", r"\unheardof{x} < 1", "a & b", "a}"])
def test_a_formula_that_cannot_be_read_shows_its_source(latex):
    shown = formula(latex)
    assert "formula-source" in shown and html.escape(latex) in shown and "<math" not in shown


def test_pictures_carry_caption_and_words_other_kinds_are_shown_and_runs_are_named(tmp_path, monkeypatch):
    note = {"figure": "figures/01_a", "caption": "A <curve>"}
    shown = page(showing({"image/png": encoded(png())}, {"image/png": {"alt": "A <curve>", "width": 3}, "thyroid": note}))
    assert 'alt="A &lt;curve&gt;"' in shown and "<figcaption>A &lt;curve&gt;" in shown and 'href="figures/01_a.pdf"' in shown
    plain = page(new_markdown_cell("## Look"), showing({"image/png": encoded(png())}))
    assert 'alt="Picture in the section Look"' in plain and "<figcaption>" not in plain
    for data, expected in (
        ({"text/latex": r"$\displaystyle x^2$", "text/plain": "x**2"}, "<msup>"),
        ({"image/svg+xml": "<svg/>"}, "data:image/svg+xml;base64,"),
        ({"image/jpeg": "/9j/4AAQ\n"}, "data:image/jpeg;base64,/9j/4AAQ"),
        ({"text/plain": "<7>"}, "<pre>&lt;7&gt;</pre>"),
    ):
        assert expected in page(showing(data))
    shown = page(showing({"text/markdown": "*Twice*", "text/plain": "Twice"}, {"thyroid": {"repeats_caption": True}}))
    assert "Twice" not in shown
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "p.png").write_bytes(png())
    assert f"data:image/png;base64,{encoded(png())}" in page(new_markdown_cell("![A picture](p.png)"))
    lines = "resnet18, seed 0: 1 epoch, best 1, 2 s (loaded), run 0123abcd\nunet, seed 0: 2 s, run ffffffff\n"
    told = [new_output("stream", name="stdout", text=lines) for _ in range(2)]
    runs = mentioned_runs(new_notebook(cells=[new_code_cell("x", outputs=told)]))
    assert runs == ["0123abcd", "ffffffff"]
    shown = page(runs=runs)
    assert "0123abcd, ffffffff" in shown and "runs/NAME/predictions.csv" in shown and "NAME/predictions" not in page()


@pytest.mark.parametrize("content", ["opaque", "broken", "transparent", "deep"])
def test_a_large_picture_is_embedded_smaller_unless_it_would_suffer(content):
    noise = np.random.default_rng(0).integers(0, 65535, (400, 400), np.uint16)
    stream = io.BytesIO(png((400, 400), noise=True))
    if content == "broken":
        stream = io.BytesIO(png()[:8] + noise.tobytes())
    elif content == "deep":
        Image.fromarray(noise).save(stream, "png")
    elif content == "transparent":
        Image.fromarray(noise.view(np.uint8).reshape(400, 200, 4), "RGBA").save(stream, "png")
    assert len(stream.getvalue()) > 200_000
    source = f'src="data:image/png;base64,{encoded(stream.getvalue())}"'
    shown = page(showing({"image/png": encoded(stream.getvalue())}))
    assert ("data:image/webp;base64," in shown and source not in shown) if content == "opaque" else source in shown


def test_the_answer_stands_under_the_question_and_sections_that_show_nothing_are_left_out():
    waiting = showing({"text/markdown": "*waiting*"}, {"thyroid": {"answer": None}})
    assert "waiting" not in page(waiting) and 'id="answer"' not in page(waiting)
    given = showing({"text/markdown": "**Answer.** By *0.1*."}, {"thyroid": {"answer": "By *0.1*."}})
    shown = page(new_markdown_cell("## First"), given)
    assert shown.count("By <em>0.1</em>.") == 1
    assert shown.index("Question?") < shown.index("By <em>") < shown.index(">First</h2>")
    assert '<p class="answer">By <em>0.1</em>.</p>' in index({}, answer="By *0.1*.") and 'class="answer"' not in index({})
    quiet, empty = new_code_cell("x = 1"), showing({"text/markdown": "", "text/plain": "<Markdown object>"})
    cells = [
        *(new_markdown_cell("## Asked\n\nWords."), showing({"text/plain": "seen"})),
        *(new_markdown_cell("### Part left out"), quiet),
        *(new_markdown_cell("## Not asked\n\nNever."), quiet, new_markdown_cell("Nor this."), empty),
        *(new_markdown_cell("### Nor below it"), empty, new_markdown_cell("### Only words, not asked either")),
        *(new_markdown_cell("## Part\n\n### First"), quiet, new_markdown_cell("### Second"), showing({"text/plain": "seen"})),
        new_markdown_cell("## Limits\n\nOnly words stay."),
    ]
    shown = page(*cells)
    assert re.findall(r"<h[23] [^>]*>(.*?)</h", shown) == ["Asked", "Part", "First", "Second", "Limits"]
    assert not re.search("left out|[Nn]ot asked|Nor|Never", shown), "words, code and contents"
    assert "Not asked" in page(*cells, error={"line": "x", "cell": 1}, status="failed"), "what was not reached is told"


def test_nothing_that_runs_or_loads_passes_and_what_cells_print_is_escaped():
    assert markdown("`$z$` and \\$5 of $x^2$\n\n\\begin{align} a &= b \\end{align}")[0].count("<math") == 2
    evil = (
        '<script src="https://x"></script><img src="https://x/p.png" alt="pic"><b onclick="x()">bold</b><iframe src="y"></iframe>'
    )
    shown = page(
        new_markdown_cell(evil + "\n\n![far](https://x/q.png)"),
        showing({"text/html": evil}),
        showing({"application/javascript": "alert(1)", "text/plain": "plain"}),
    )
    body = shown.split("<body>")[1]
    assert "https://" not in body and "onclick" not in body and "<script" not in shown and "<iframe" not in shown
    assert body.count("[pic]") == 2 and "[far]" in body and ">bold</b>" in body and "default-src &#39;none&#39;" in shown
    outputs = [
        new_output("stream", name="stdout", text="<i>\x1b[31mred"),
        new_output("stream", name="stderr", text="careful\ntwice"),
    ]
    cell = new_code_cell("print()", outputs=outputs)
    shown = page(cell, parameters={})
    assert "&lt;i&gt;" in shown and "ansi-red-fg" in shown and "<summary>Messages, 2 lines</summary>" in shown
    assert "Run &amp; more" in shown and "Every parameter has its default" in shown and "&lt;b&gt;" in page()
    assert '<details class="code">' in shown and '<details class="code" open>' in page(cell, show_code=True)
    assert "<details class=" not in page(new_code_cell("  ")).split("<main>")[1], "empty cells are left out"


def index(recorded: dict, **record) -> str:
    """The index of a run of one notebook that recorded these values: name → (value, label, unit)."""
    metrics = {name: dict(zip(("value", "label", "unit"), entry, strict=True)) for name, entry in recorded.items()}
    run = {**RECORD, **RUN, "description": "", "notebooks": {"01_x": {**RECORD, "earlier": False, "kept": False, **record}}}
    return render_index(run, {"01_x": metrics}, Path("nowhere"))


def test_the_index_shows_labelled_numbers_first_and_hashes_apart():
    recorded = {
        "plain_count": (3, None, None),
        "split_hash": ("abcd", "Split", None),
        "dice": ({"value": 0.81, "low": 0.784, "high": 0.84}, "Dice", None),
        "mean_area": (1234.5, "Area", "mm²"),
        "undefined": (None, "Lowest Dice", None),
        "no_data": ({"value": None, "low": None, "high": None}, "AUC", None),
        "one_patient": ({"value": 0.5, "low": None, "high": None}, "IoU", None),
    }
    numbers, provenance = index(recorded).partition('<dl class="key">')[2].split("Data and splits")
    told = html.unescape(re.sub("<[^>]*>", " ", numbers.partition("</dl>")[0]))
    assert " ".join(told.split()) == "Dice 0.810 0.784 – 0.840 Area 1 234 mm² IoU 0.500 plain count 3"
    assert "abcd" in provenance
    assert index({f"n{number}": (number, None, None) for number in range(20)}).count("<div><dt>") == 6
    failed = index({}, error={"line": "ValueError: <x>", "cell": 1}, status="failed", earlier=True, commit="abc")
    assert "ValueError: &lt;x&gt;" in failed and "from an earlier run" in failed and "commit abc" in failed


def test_thumbnails_take_the_cover_and_durations_and_numbers_are_told_as_people_do(tmp_path):
    (tmp_path / "figures").mkdir()
    for name, noise in (("first", False), ("cover", True)):
        (tmp_path / "figures" / f"{name}.png").write_bytes(png((900, 1400), noise))
    named = ("first", "cover")
    figures = [{"file": f"figures/{name}", "caption": name.title(), "cover": name == "cover"} for name in named]
    chosen = thumbnail(figures, tmp_path)
    assert chosen["alt"] == "Cover" and len(chosen["source"]) <= 61_000
    assert thumbnail([], tmp_path) is None and thumbnail([{**figures[0], "file": "figures/gone"}], tmp_path) is None
    durations = {None: "–", 0.81: "0.8 s", 59.96: "1 min 00 s", 7440: "124 min 00 s"}
    assert [duration_text(seconds) for seconds in durations] == list(durations.values())
    numbers = {None: "–", True: "yes", 12345: "12\u202f345", 0.12345: "0.123", 123.4: "123", "a": "a"}
    assert [number_text(value) for value in numbers] == list(numbers.values())


@pytest.fixture
def scrubber(monkeypatch, tmp_path):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("HOME", "/home/alice")
    return Scrubber([Path("/mnt/clinic/scans")])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open('/mnt/clinic/scans/a b/1.png')", "open('…/scans/a b/1.png')"),
        ("/mnt/clinic/scans", "…/scans"),
        ("/mnt/clinic/scans-2/x and /mnt/clinic/scansion", "/mnt/clinic/scans-2/x and /mnt/clinic/scansion"),
        ("/elsewhere/mnt/clinic/scans/x", "/elsewhere/mnt/clinic/scans/x"),
        ("/home/alice/notes.txt", "~/notes.txt"),
        ("file:///home/alice/x", "file://~/x"),
        ("\x1b[32m/home/alice/x.py\x1b[39m:12", "\x1b[32m~/x.py\x1b[39m:12"),
        ('File "{root}/notebooks/x.py", line 3', 'File "notebooks/x.py", line 3'),
        ("in {root}", "in …/project"),
        (f"in {sys.prefix}/x.py", f"in …/{Path(sys.prefix).name}/x.py"),
    ],
)
def test_known_folders_are_shortened_and_others_left(scrubber, tmp_path, text, shown):
    assert scrubber.text(text.replace("{root}", f"{tmp_path}/project")) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open('/mnt/ward 7/Meier, Anna/1.png')", "open('DATA_ROOT/…')"),
        ("/mnt/ward 7/Meier Anna/1.PNG: not a picture; restore it", "DATA_ROOT/…: not a picture; restore it"),
        ("no such folder: '/mnt/ward 7/Meier Anna'", "no such folder: 'DATA_ROOT/…'"),
        ("/mnt/ward 7: no images", "DATA_ROOT: no images"),
        ("/mnt/ward 7/b", "DATA_ROOT/…"),
        ("/mnt/ward 77/b", "/mnt/ward 77/b"),
        ("/mnt/ward 7/O'Brien Zoé/1.png: damaged", "DATA_ROOT/…: damaged"),
        ("open('/mnt/ward 7/Kurt \\'Kutte\\' Müller/1.png')", "open('DATA_ROOT/…')"),
        ('no such folder: "/mnt/ward 7/Weiß, Jörg; (2): O\'Hara".\nnext', 'no such folder: "DATA_ROOT/…".\nnext'),
        ("/mnt/ward 7/Meier Anna 12 left out", "DATA_ROOT/…"),
        ("/mnt/ward 7/a.png folder/Meier, Anna\nnext", "DATA_ROOT/…\nnext"),
        ("/mnt/ward 7/a.png Meier.avi", "DATA_ROOT/…"),
        ("/mnt/ward 7/Meier Anna.mp4 and /mnt/ward 7/O'Hara.avi", "DATA_ROOT/…"),
        ("<td>/mnt/ward 7/Meier Anna</td><td>3</td>", "<td>DATA_ROOT/…</td><td>3</td>"),
        ("\x1b[32m/mnt/ward 7/Meier Anna/1.png\x1b[39m:12", "\x1b[32mDATA_ROOT/…\x1b[39m:12"),
        ("file:///mnt/ward%207/Meier%20Anna/1.png", "file://DATA_ROOT/…"),
        ("/mnt/ward 7 and /mnt/Zoe\u0308 & So\u0308hne/x y, <b>", "DATA_ROOT and DATA_ROOT/…"),
        ('{"root": "/mnt/Zo\\u00eb & S\\u00f6hne"}', '{"root": "DATA_ROOT"}'),
        ("/mnt/O'/x in '/mnt/O\\'/x'", "DATA_ROOT/…'"),
        ("<b>/mnt/Zoë &amp; Söhne</b>", "<b>DATA_ROOT</b>"),
    ],
)
def test_nothing_of_the_datas_folder_is_kept_no_name_below_it_either(text, shown):
    assert Scrubber([], ["/mnt/ward 7", "/mnt/Zoë & Söhne", "/mnt/O'"]).text(text) == shown


def test_every_string_of_a_notebook_is_scrubbed_but_pictures(scrubber):
    picture = "iVBOR/home/alice/w0KGgo"
    output = nbformat.v4.new_output("display_data", {"text/plain": "/home/alice/x", "image/png": picture})
    cell = nbformat.v4.new_code_cell("open('/mnt/clinic/scans/1')", outputs=[output])
    node = scrubber.anything(nbformat.v4.new_notebook(cells=[cell], metadata={"path": {"/home/alice": ["/home/alice", 1, None]}}))
    assert isinstance(node.cells[0], nbformat.NotebookNode) and node.cells[0].source == "open('…/scans/1')"
    assert node.cells[0].outputs[0].data == {"text/plain": "~/x", "image/png": picture}
    assert node.metadata.path == {"~": ["~", 1, None]}
