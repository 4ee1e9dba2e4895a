"""The runner, from a parameter file to a folder of reports, on small notebooks."""

import contextlib
import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import filelock
import nbformat
import psutil
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook
from workbook_project import FIGURES, PROSE, notebook, read_json, write_project

from thyroid_utils.common import files
from thyroid_utils.workbook import report, run
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.folder import FORMAT, ReportFolder
from thyroid_utils.workbook.pages import Scrubber

WAITS = """import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path({marker!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
time.sleep(300)"""
MENTIONS_PATHS = """import os, sys, warnings
from pathlib import Path
import thyroid_utils
from thyroid_utils.workbook.record import record
warnings.warn(f"read {DATA_ROOT}/ddti/1.png")
print(DATA_ROOT, sys.prefix, Path.home() / "x", os.getcwd(), thyroid_utils.__file__, os.environ["THYROID_REPORT_DIR"], sep="\\n")
record("folder", DATA_ROOT + "/ddti")
open(f"{DATA_ROOT}/missing/labels.csv")"""
STRAYS = """import os, pathlib, sys
from thyroid_utils.workbook.record import record
assert sys.executable == os.environ["EXPECTED"], "the kernel is this interpreter, whatever is installed as python3"
pathlib.Path("left.txt").write_text("x")
tables = pathlib.Path(os.environ["THYROID_REPORT_DIR"], "tables")
(tables / "folder").mkdir(parents=True)
(tables / "01_array.npz").write_bytes(bytes(range(256)))
record("seeds", len(SEEDS))
print(SIZE, LIMIT)"""


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Notebooks that fail in every way and some that do not, in folders with a space, a brace and a letter beyond ASCII."""
    root = tmp_path_factory.mktemp("ünsere {project} $HOME")
    data = root / "confidential" / "wärd 7"
    data.mkdir(parents=True)
    impostor = root / "jupyter" / "kernels" / "python3"
    impostor.mkdir(parents=True)
    (impostor / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    params = write_project(
        root,
        "title: A test\ndescription: What it is.\ncommon: {SIZE: 128}\n03_strays: {SEEDS: [1, 2]}\n",
        n01_first=notebook("01. The first", FIGURES, prose=PROSE),
        n02_fails=notebook("Second", MENTIONS_PATHS, "print('never')"),
        n03_strays=notebook("Third", STRAYS),
        n04_dies=notebook("Dies", "print('before')", "import os\nos.kill(os.getpid(), 9)", "print('after')", parameters=None),
        n05_leaves=notebook("Leaves", "import sys\nsys.exit(0)", "print('after')", parameters=None),
        case_review=notebook("An app, which no run executes"),
    )
    before = digest(root / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_ROOT", str(root))
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        patch.setenv("EXPECTED", sys.executable)
        patch.chdir(root)
        code = main(["run", str(params), "--data-root", str(data), "--set", "SHARE=0.25"])
    assert digest(root / "notebooks") == before, "notebooks are never run in place"
    return root, root / "reports" / "test", code


def test_failing_notebooks_leave_the_others_with_reports_figures_tables_and_numbers(finished):
    root, out, code = finished
    records = read_json(out / "run.json")["notebooks"]
    errors = {stem: record["error"]["line"].split(":")[0] for stem, record in records.items() if record["status"] == "failed"}
    assert code == 1 and len(records) == 5
    assert errors == {
        "02_fails": "FileNotFoundError",
        "04_dies": "Kernel died; often the memory was not enough.",
        "05_leaves": "SystemExit",
    }
    assert "FileNotFoundError" in (out / "02_fails.html").read_text()
    assert "02_fails.html#error" in (out / "index.html").read_text()
    died = (out / "04_dies.html").read_text()
    assert "Kernel died" in died and ">before<" in died and ">after<" not in died
    stems = ("01_first", "02_fails", "03_strays", "04_dies", "05_leaves")
    assert sorted(digest(out)) == sorted(
        [f"{stem}.{kind}" for stem in stems for kind in ("html", "ipynb")]
        + ["figures/01_curve.pdf", "figures/01_curve.png", "index.html", "metrics.json", "run.json"]
        + ["tables/01_counts.csv", "tables/01_counts.tex"]
    )
    assert not list(root.rglob("left.txt")), "a notebook works in a scratch folder"
    metrics = read_json(out / "metrics.json")
    assert metrics["01_first"]["images"] == {"value": 200, "label": "Images", "unit": None}
    assert metrics["03_strays"]["seeds"]["value"] == 2
    executed = nbformat.read(out / "03_strays.ipynb", as_version=4)
    nbformat.validate(executed)
    assert executed.cells[-1].outputs[-1].text == "128 None\n"
    parameters = read_json(out / "run.json")["notebooks"]["03_strays"]["parameters"]
    assert parameters == {"SIZE": 128, "SHARE": 0.25, "SEEDS": [1, 2], "DATA_ROOT": "DATA_ROOT"}


def test_no_path_of_the_machine_is_shown_but_title_question_numbers_and_where_it_was_made(finished):
    root, out, _ = finished
    checkout = str(Path(files.__file__).parents[2]) + "/thyroid"
    secret = [str(root), str(root.parent), "confidential", "wärd", str(Path.home()) + "/", sys.prefix, checkout]
    for path in out.rglob("*"):
        if path.is_file() and path.suffix not in (".png", ".pdf"):
            text = path.read_text(encoding="utf-8")
            assert not [known for known in secret if known in text], f"{path.name}"
    cells = nbformat.read(out / "02_fails.ipynb", as_version=4).cells
    assert any("read DATA_ROOT/…" in str(output) for output in cells[3].outputs)
    assert "DATA_ROOT = 'DATA_ROOT'" in cells[2].source
    assert read_json(out / "metrics.json")["02_fails"]["folder"]["value"] == "DATA_ROOT/…"
    answers = [record["answer"] for record in read_json(out / "run.json")["notebooks"].values()]
    assert answers == ["Apart by 0.11 **or more**, on 4 patients."] + 4 * [None], "the last one given, under the question"
    assert (out / "01_first.html").read_text().count("Apart by 0.11 <strong>or more") == 1
    index = (out / "index.html").read_text()
    for part in ("What it is.", "Which <strong>answer", "<strong>or more", "ab" * 32, "papermill", "jpeg;base64,", "[1, 2]"):
        assert part in index, part
    assert "http-equiv" in index and "<script" not in index


def test_only_runs_some_again_and_keeps_the_others(finished, monkeypatch):
    root, out, _ = finished
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(root))
    before = digest(out)
    path = root / "notebooks" / "01_first.ipynb"
    original = path.read_text()
    path.write_text(original.replace('\\"curve\\"', '\\"bend\\"'))
    path.rename(renamed := path.with_stem("01_renamed"))
    other = root / "params" / "other.yaml"
    other.write_text("title: A test\n")
    assert main(["run", str(other), "--only", "01", "--show-code", "--out", str(out)]) == 0
    renamed.unlink()
    path.write_text(original)
    after = digest(out)
    assert all(after[name] == before[name] for name in before if name.startswith(("03", "04")))
    assert "01_first.html" not in after, "the old report goes with the old name"
    assert sorted(name for name in after if name.startswith("figures/")) == ["figures/01_bend.pdf", "figures/01_bend.png"]
    assert set(read_json(out / "metrics.json")) >= {"01_renamed", "02_fails", "03_strays", "04_dies", "05_leaves"}
    assert '<details class="code" open>' in (out / "01_renamed.html").read_text()
    assert "from an earlier run" in (out / "index.html").read_text()
    made_by = {stem: "<dd>other.yaml</dd>" in (out / f"{stem}.html").read_text() for stem in ("01_renamed", "02_fails")}
    assert made_by == {"01_renamed": True, "02_fails": False}, "a report keeps saying how it was made"


def small_project(tmp_path, monkeypatch, **notebooks) -> Path:
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    notebooks = notebooks or {"n01_only": notebook("Only", "print(1)", parameters=None)}
    return write_project(tmp_path, "title: Small\n", **notebooks)


@pytest.mark.parametrize(
    ("content", "out", "expected"),
    [
        ("common: {SIEZ: 64}\n", "out", "did you mean SIZE?"),
        ("", "file/out", "cannot be written"),
        ("", "é" * 250, "cannot be written"),
        ("", "notebooks", "01_only.ipynb would be replaced, and no run wrote it"),
        ("", "mine", "01_only.html would be replaced, and no run wrote it"),
        ("", "held", "another run is writing this folder"),
    ],
)
def test_wrong_use_is_one_line_and_stops_before_anything_runs(tmp_path, monkeypatch, capsys, content, out, expected):
    params = small_project(tmp_path, monkeypatch, n01_only=notebook("Only", "print(1)"))
    params.write_text(content or "title: Small\n")
    (tmp_path / "file").write_text("in the way")
    for name in ("mine", "held"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "01_only.html").write_text("mine")
    before = digest(tmp_path)
    with filelock.FileLock(tmp_path / "held" / ".lock"):
        assert main(["run", str(params), "--out", str(tmp_path / out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and expected in told[0] and digest(tmp_path) == before


@pytest.mark.parametrize("record", ["{", "[]", '{"format": 2}'])
def test_files_that_no_run_wrote_stay(tmp_path, monkeypatch, record):
    """A record of earlier runs that cannot be read is no obstacle."""
    params = small_project(tmp_path, monkeypatch)
    out = tmp_path / "mine"
    (out / "figures").mkdir(parents=True)
    mine = ["01_draft.ipynb", "01_draft.html", "figures/01_mine.png", "figures/01_mine.pdf"]
    for name in mine:
        (out / name).write_text("mine")
    (out / "run.json").write_text(record)
    (out / "metrics.json").write_text(record)
    assert main(["run", str(params), "--out", str(out)]) == 0
    assert {(out / name).read_text() for name in mine} == {"mine"} and read_json(out / "run.json")["status"] == "finished"


@pytest.mark.parametrize("failing", [".ipynb", "metrics.json"])
def test_a_full_disk_is_told_in_a_line_and_leaves_nothing_half_written(tmp_path, monkeypatch, capsys, failing):
    params = small_project(tmp_path, monkeypatch)
    assert main(["run", str(params)]) == 0
    out = tmp_path / "reports" / "test"
    before = digest(out)
    real = Path.write_bytes

    def write_half(path: Path, content: bytes) -> int:
        if path.name.startswith((".01_only", ".metrics")) and path.name.endswith(failing.removeprefix("metrics")):
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_half)
    capsys.readouterr()
    assert main(["run", str(params), "--again"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "space" in told[0] and "test" in told[0], told
    after = digest(out)
    assert read_json(out / "run.json")["status"] == "interrupted"
    kept = [name for name in before if name.startswith(("01_only", "metrics"))]
    assert len(kept) == 3 and all(after[name] == before[name] for name in kept) and set(after) == set(before)


GOOD = notebook("Only", FIGURES)
FAILS = {"error": "1 / 0", "memory": "import os\nos.kill(os.getpid(), 9)", "disk": "raise OSError(28, 'No space left on device')"}


@pytest.mark.parametrize("how", FAILS)
def test_a_failed_rerun_leaves_the_last_good_report_marked_with_the_error_beside_it(tmp_path, monkeypatch, capsys, how):
    params = small_project(tmp_path, monkeypatch, n01_only=GOOD)
    assert main(["run", str(params)]) == 0
    out = tmp_path / "reports" / "test"
    before = digest(out)
    write_project(tmp_path, "title: Small\n", n01_only=notebook("Only", FIGURES.replace("[1, 3", "[9, 3"), FAILS[how]))
    assert main(["run", str(params)]) == 1
    after, record = digest(out), read_json(out / "run.json")["notebooks"]["01_only"]
    kept = [name for name in before if name.startswith(("figures", "tables", "metrics", "01_only.ipynb"))]
    assert len(kept) == 6 and all(after[name] == before[name] for name in kept)
    assert set(after) - set(before) == {"01_only-failed.html", "01_only-failed.ipynb"}
    assert record["status"] == "finished" and record["rerun"]["status"] == "failed"
    for name in ("01_only.html", "index.html"):
        assert (
            "This is the last good report." in (out / name).read_text()
            and "01_only-failed.html#error" in (out / name).read_text()
        )
    failed = (out / "01_only-failed.html").read_text()
    assert 'id="error"' in failed and 'href="01_only.html"' in failed and ".png" not in failed, "no link to another run's figures"
    assert "the last good report stays" in capsys.readouterr().out
    monkeypatch.setattr(run, "execute_notebook", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    assert main(["run", str(params)]) == 2, "stopped before anything ran"
    assert read_json(out / "run.json")["notebooks"]["01_only"]["rerun"] == record["rerun"] | {"before": None}
    monkeypatch.undo()
    small_project(tmp_path, monkeypatch, n01_only=GOOD)
    write_project(tmp_path, "title: Small\n", n01_only=GOOD)
    assert main(["run", str(params)]) == 0
    assert set(digest(out)) == set(before) and "last good" not in (out / "01_only.html").read_text()


def test_errors_of_a_users_own_data_name_no_patient_but_in_the_terminal(tmp_path, monkeypatch, capsys):
    parameters = 'DATASET = "folders"  # text\nDATA_ROOT = ""  # folder\nDATA_OPTIONS = {}  # options'
    monkeypatch.setattr("thyroid_utils.workbook.run.check_notebooks", lambda *_: None)  # there is no data
    message = "patient_pattern finds no patient in Anna Meier.png,\nO'Neil.ima"
    fails = f"raise ValueError({message!r}) from KeyError('Bea Kurz')"
    params = small_project(tmp_path, monkeypatch, n01_only=notebook("Only", FIGURES, parameters=parameters))
    assert main(["run", str(params)]) == 0
    monkeypatch.setenv("FAILS", fails)  # the code itself names nobody
    node = notebook("Only", "import os\nexec(os.environ['FAILS'])", parameters=parameters)
    write_project(tmp_path, "title: Small\n", n01_only=node, n02_other=node)
    assert main(["run", str(params)]) == 1
    told = capsys.readouterr().out
    assert told.count("Anna Meier.png") == told.count("O'Neil.ima") == 2
    written = {path.name: path.read_bytes() for path in (tmp_path / "reports" / "test").rglob("*") if path.is_file()}
    assert not [name for name, content in written.items() if re.search(b"Meier|Neil|Kurz", content)]
    for name in ("01_only-failed.html", "01_only-failed.ipynb", "02_other.html", "run.json", "index.html"):
        assert b"ValueError: the terminal shows the whole message" in written[name], name
    given = "title: Small\ncommon:\n  DATA_OPTIONS: {keep_names: true}\n"
    assert main(["run", str(write_project(tmp_path, given, n01_only=node))]) == 1
    assert b"Anna Meier.png" in (tmp_path / "reports/test/run.json").read_bytes()


def staged(folder: ReportFolder, content: str) -> Path:
    """A report of 01_only whose every file holds `content`."""
    staging = folder.staging("01_only")
    for file in (*(f"figures/01_curve.{kind}" for kind in ("png", "pdf")), "tables/01_counts.csv", "tables/01_counts.tex"):
        (staging / file).parent.mkdir(exist_ok=True)
        (staging / file).write_text(content)
    record = dict.fromkeys(("duration", "error", "commit", "answer", "rerun", "hardware", "parameters", "parameter_file"))
    record |= {"stem": "01_only", "number": "01", "title": content, "question": "", "status": "finished", "started": content}
    record |= {
        "show_code": False,
        "earlier": False,
        "kept": False,
        "versions": {},
        "figures": [{"file": "figures/01_curve", "cover": False}],
    }
    record["tables"] = [{"file": "tables/01_counts"}]
    folder.stage(new_notebook(cells=[new_markdown_cell(content)]), record, staging)
    return staging


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moves", range(9))
def test_a_page_never_lies_beside_figures_of_another_run_wherever_it_is_killed(tmp_path, monkeypatch, moves):
    monkeypatch.setattr(report, "thumbnail", lambda *_: None)
    params = small_project(tmp_path, monkeypatch)
    folder = ReportFolder(tmp_path / "reports" / "test", Scrubber())
    folder.path.mkdir(parents=True)
    told = dict.fromkeys(("title", "description", "started", "commit", "hardware", "parameter_file"), "")
    folder.document = {**told, "format": FORMAT, "status": "running", "duration": 1.0, "versions": {}, "known": ["01_only"]}
    folder.document["notebooks"] = {}
    folder.install(staged(folder, "first"), "01_only")
    folder.records["01_only"]["rerun"] = {"status": "running", "started": "", "error": None, "page": None}
    folder.write_index()
    staging, real, done = staged(folder, "second"), os.replace, []

    def replace(source, target) -> None:
        if ".ready-" in f"{source}{target}":
            done.append(target)
            if len(done) > moves:
                raise Killed
        real(source, target)

    def found() -> list[str]:
        files = [*folder.path.glob("[!.]*/01_*"), *folder.path.glob("01_only.html")]
        return [next(word for word in ("first", "second") if word in file.read_text()) for file in files]

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "replace", replace)
        folder.install(staging, "01_only")
    assert len(set(found())) == 1 or len(found()) == 4, "where there is a page, all is of its run"
    params.unlink()
    assert main(["run", str(params)]) == 2, "any next call"
    assert found() == 5 * ["first" if moves == 0 else "second"] and not list(folder.path.glob(".[!l]*"))
    run = read_json(folder.path / "run.json")
    record = run["notebooks"]["01_only"]
    assert run["status"] == "interrupted" and record["status"] == "finished"
    assert record["rerun"] is None if moves else record["rerun"]["status"] == "interrupted"


def at_work(marker: Path) -> list[psutil.Process]:
    """The kernel that has written the marker, and what it has started."""
    deadline = time.monotonic() + 300  # a busy machine takes long to import
    while not (marker.is_file() and len(marker.read_text().split()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [psutil.Process(int(number)) for number in marker.read_text().split()]


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_an_interruption_ends_kernels_and_keeps_what_was_finished(tmp_path, monkeypatch, capsys):
    markers = [tmp_path / "marker", tmp_path / "other"]
    quick = notebook("Quick", "print('first')", parameters=None)
    slow, other = [notebook("Slow", WAITS.format(marker=str(marker)), parameters=None) for marker in markers]
    params = small_project(tmp_path, monkeypatch, n01_quick=quick)
    assert main(["run", str(params)]) == 0
    out = tmp_path / "reports" / "test"
    for number, where in ((signal.SIGINT, "n03_slow"), (signal.SIGTERM, "n01_quick")):
        write_project(tmp_path, "title: Small\n", n02_slow=other, **{where: slow}, n04_never=quick)
        kernels: list[psutil.Process] = []

        def interrupt(number=number, kernels=kernels) -> None:
            kernels.extend(process for marker in markers for process in at_work(marker))
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert main(["run", str(params), "--jobs", "2"]) == 130
        thread.join()
        for marker in markers:
            marker.unlink()
        assert ended(kernels, 5), "the kernels and what they started"
        told = capsys.readouterr()
        assert "Interrupted" in told.out and told.err == ""
        run = read_json(out / "run.json")
        assert run["status"] == "interrupted" and not list(out.glob(".unfinished*"))
        if number == signal.SIGINT:
            kept = digest(out)["01_quick.ipynb"]
            statuses = {stem: record["status"] for stem, record in run["notebooks"].items()}
            slow_ones = {"02_slow": "interrupted", "03_slow": "interrupted"}
            assert statuses == {"01_quick": "finished", **slow_ones, "04_never": "not run"}
            assert "interrupted" in (out / "index.html").read_text()
            assert "04_never.html" not in (out / "01_quick.html").read_text(), "no link leads nowhere"
        else:
            assert digest(out)["01_quick.ipynb"] == kept, "its first report is as it was"


MEETS = """import json, os, pathlib, time
root, out = pathlib.Path({root!r}), pathlib.Path(os.environ["THYROID_REPORT_DIR"]).parent
(root / os.environ["THYROID_NOTEBOOK"]).touch()
until = time.monotonic() + 60
while len(list(root.iterdir())) < 2:
    assert time.monotonic() < until, "nobody comes"
    time.sleep(0.05)
records = json.loads((out / "run.json").read_text())["notebooks"]
states = [record["status"] for record in records.values()]
assert states == ["running", "running"], states
assert (out / "index.html").read_text().count('class="status running"') == 3
assert os.environ["OMP_NUM_THREADS"] == "3", "the threads of a notebook are its own, however many run"
time.sleep(1)"""


def test_notebooks_run_side_by_side_and_the_index_shows_them_at_work(tmp_path, monkeypatch):
    (tmp_path / "met").mkdir()
    meets = notebook("Meets", MEETS.format(root=str(tmp_path / "met")), parameters="THREADS = 3")
    params = small_project(tmp_path, monkeypatch, n01_one=meets, n02_other=meets)
    assert main(["run", str(params), "--jobs", "2"]) == 0


@pytest.mark.parametrize(
    ("notebooks", "gpu", "jobs"),
    [
        ([{"THREADS": 1}, {}], "", 16),
        ([{"THREADS": 1}, {"THREADS": 3}], "", 5),
        ([{"THREADS": 1}, {"THREADS": 0}], "", 1),
        ([{"THREADS": 32}], "", 1),
        ([{"THREADS": 1, "ENGINE": "dask"}, {}], "", 1),
        ([], "", 16),
        ([{"THREADS": 0}], "80000\n", 8),
        ([{"THREADS": 1}], "80000\n20000\n", 2),
        ([{"THREADS": 1}], "[N/A]\n", 1),
    ],
)
def test_as_many_notebooks_run_as_have_room(monkeypatch, notebooks, gpu, jobs):
    monkeypatch.setattr(run, "CPU_COUNT", 16)
    monkeypatch.setattr(run, "_free_memory", lambda: 80e9)
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: bool(gpu))
    monkeypatch.setattr(run, "answer", lambda *_: gpu)
    assert run.default_jobs(notebooks) == jobs
    monkeypatch.setattr(run, "_free_memory", lambda: 5e9)
    assert run.default_jobs(notebooks) == 1, "5 GB"


def test_a_killed_runner_leaves_no_kernel_and_the_next_run_clears_up(tmp_path, monkeypatch):
    scratch, strangers = tmp_path / "scratch", tmp_path / "scratch" / "thyroid-workbook-mine"
    strangers.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    marker = tmp_path / "marker"
    params = small_project(tmp_path, monkeypatch, n01_slow=notebook("Slow", WAITS.format(marker=str(marker)), parameters=None))
    process = subprocess.Popen([sys.executable, "-m", "thyroid_utils.workbook.cli", "run", str(params)])
    kernel, child = at_work(marker)
    process.kill()
    process.communicate()
    assert ended([kernel], 10)
    with contextlib.suppress(psutil.NoSuchProcess):
        child.kill()  # nobody is left to end what the kernel started
    out = tmp_path / "reports" / "test"
    assert (out / ".unfinished-01_slow").is_dir() and list(scratch.glob("*/connection.json"))
    write_project(tmp_path, "title: Small\n", n01_slow=notebook("Slow", "print(1)", parameters=None))
    assert main(["run", str(params)]) == 0
    assert not list(out.glob(".unfinished-*")) and (out / "01_slow.html").is_file()
    assert list(scratch.glob("thyroid-workbook-*")) == [strangers], "scratch and connection go, a stranger's stays"
