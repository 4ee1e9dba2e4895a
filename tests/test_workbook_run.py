"""The runner, from a parameter file to a folder of reports, on small notebooks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import nbformat
import psutil
import pytest
from workbook_project import FIGURES, PROSE, notebook, read_json, write_project

from thyroid_utils.common import files
from thyroid_utils.workbook.cli import main

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


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def use(root: Path, monkeypatch) -> None:
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(root))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three notebooks of which the second fails, in folders with a space, a brace and a letter beyond ASCII."""
    root = tmp_path_factory.mktemp("ünsere {project} $HOME")
    data = root / "confidential" / "ward 7"
    data.mkdir(parents=True)
    params = write_project(
        root,
        "title: A test\ndescription: What it is.\ncommon: {SIZE: 128}\n03_last: {SEEDS: [1, 2]}\n",
        n01_first=notebook("01. The first", FIGURES, prose=PROSE),
        n02_fails=notebook("Second", MENTIONS_PATHS, "print('never')"),
        n03_last=notebook(
            "Third", "from thyroid_utils.workbook.record import record\nrecord('seeds', len(SEEDS))\nprint(SIZE, LIMIT)"
        ),
        case_review=notebook("An app, which no run executes"),
    )
    before = digest(root / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        code = main(["run", str(params), "--data-root", str(data), "--set", "SHARE=0.25"])
    return root, root / "reports" / "test", code, before


def test_one_failing_notebook_leaves_the_others_and_exit_code_1(finished):
    _, out, code, _ = finished
    records = read_json(out / "run.json")["notebooks"]
    assert code == 1
    assert {stem: record["status"] for stem, record in records.items()} == {
        "01_first": "finished",
        "02_fails": "failed",
        "03_last": "finished",
    }
    assert records["02_fails"]["error"]["line"].startswith("FileNotFoundError")
    report, index = (out / "02_fails.html").read_text(), (out / "index.html").read_text()
    assert 'id="error"' in report and "FileNotFoundError" in report and "never" in report
    assert "FileNotFoundError" in index and "02_fails.html#error" in index


def test_the_folder_holds_notebooks_reports_figures_tables_and_numbers(finished):
    _, out, _, _ = finished
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != ".lock") == [
        "01_first.html", "01_first.ipynb", "02_fails.html", "02_fails.ipynb", "03_last.html", "03_last.ipynb",
        "figures/01_curve.pdf", "figures/01_curve.png", "index.html", "metrics.json", "run.json",
        "tables/01_counts.csv", "tables/01_counts.tex",
    ]  # fmt: skip
    metrics = read_json(out / "metrics.json")
    assert metrics["01_first"]["images"] == {"value": 200, "label": "Images", "unit": None}
    assert metrics["03_last"]["seeds"]["value"] == 2


def test_notebooks_get_what_they_declare_and_are_never_run_in_place(finished):
    root, out, _, before = finished
    assert digest(root / "notebooks") == before
    executed = nbformat.read(out / "03_last.ipynb", as_version=4)
    nbformat.validate(executed)
    assert executed.cells[-1].outputs[-1].text == "128 None\n"
    records = read_json(out / "run.json")["notebooks"]
    assert records["03_last"]["parameters"] == {"SIZE": 128, "SHARE": 0.25, "SEEDS": [1, 2], "DATA_ROOT": "…/ward 7"}


def test_no_path_of_the_machine_is_in_any_output(finished):
    root, out, _, _ = finished
    secret = [
        str(root),
        str(root.parent),
        "confidential",
        str(Path.home()) + "/",
        sys.prefix,
        str(Path(files.__file__).parents[2]) + "/thyroid",
    ]
    for path in out.rglob("*"):
        if path.is_file() and path.suffix not in (".png", ".pdf"):
            text = path.read_text(encoding="utf-8")
            assert not [known for known in secret if known in text], f"{path.name}"
    printed = nbformat.read(out / "02_fails.ipynb", as_version=4).cells[3].outputs
    assert any("…/ward 7/ddti/1.png" in str(output) for output in printed)
    assert read_json(out / "metrics.json")["02_fails"]["folder"]["value"] == "…/ward 7/ddti"


def test_the_index_shows_title_question_numbers_and_where_it_was_made(finished):
    _, out, _, _ = finished
    index = (out / "index.html").read_text()
    for part in ("A test", "What it is.", "The first", "Which <strong>answer</strong>", "0.780 – 0.840", "mm²", "ab" * 32,
                 "papermill", "data:image/jpeg;base64,", "SEEDS", "[1, 2]", "no commit"):  # fmt: skip
        assert part in index, part
    assert "http-equiv" in index and "<script" not in index


def test_only_runs_some_again_and_keeps_the_others(finished, monkeypatch, capsys):
    root, out, _, _ = finished
    use(root, monkeypatch)
    before = digest(out)
    path = root / "notebooks" / "01_first.ipynb"
    node = nbformat.read(path, as_version=4)
    original = path.read_bytes()
    node.cells[-1].source = node.cells[-1].source.replace('"curve"', '"bend"')
    nbformat.write(node, path)
    assert main(["run", str(root / "params" / "test.yaml"), "--only", "01", "--show-code"]) == 0
    path.write_bytes(original)
    after = digest(out)
    assert {name for name in before if name.startswith(("02", "03"))} <= {
        name for name in after if after[name] == before.get(name)
    }
    assert sorted(name for name in after if name.startswith("figures/")) == ["figures/01_bend.pdf", "figures/01_bend.png"]
    assert set(read_json(out / "metrics.json")) == {"01_first", "02_fails", "03_last"}
    assert '<details class="code" open>' in (out / "01_first.html").read_text()
    assert "from an earlier run" in (out / "index.html").read_text()
    assert capsys.readouterr().out.splitlines()[-1].endswith("index.html")


def small_project(tmp_path, monkeypatch, **notebooks) -> Path:
    use(tmp_path, monkeypatch)
    notebooks = notebooks or {"n01_only": notebook("Only", "print(1)", parameters=None)}
    return write_project(tmp_path, "title: Small\n", **notebooks)


def test_a_misspelt_parameter_stops_before_anything_runs(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch, n01_only=notebook("Only", "print(1)"))
    params.write_text("common: {SIEZ: 64}\n")
    assert main(["run", str(params)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "SIEZ" in told[0] and "did you mean SIZE?" in told[0]
    assert not (tmp_path / "reports").exists()


def test_an_unwritable_output_folder_stops_before_anything_runs(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch)
    (tmp_path / "file").write_text("in the way")
    assert main(["run", str(params), "--out", str(tmp_path / "file" / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "file/out" in told[0] and "--out" in told[0]
    assert (tmp_path / "file").read_text() == "in the way"


def test_reports_never_replace_the_notebooks(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch)
    before = digest(tmp_path / "notebooks")
    for out in ("notebooks", "notebooks/reports"):
        assert main(["run", str(params), "--out", str(tmp_path / out)]) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and "among the notebooks" in told[0] and "--out" in told[0]
    assert digest(tmp_path / "notebooks") == before


def test_files_that_no_run_wrote_stay(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch)
    out = tmp_path / "mine"
    (out / "figures").mkdir(parents=True)
    for name in ("01_draft.ipynb", "01_draft.html", "figures/01_mine.png", "figures/01_mine.pdf"):
        (out / name).write_text("mine")
    (out / "01_only.html").write_text("mine")
    before = digest(out)
    assert main(["run", str(params), "--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "01_only.html would be replaced" in told[0] and "--out" in told[0] and digest(out) == before
    (out / "01_only.html").unlink()
    for _ in range(2):
        assert main(["run", str(params), "--out", str(out)]) == 0
    assert {name: digest(out)[name] for name in before if name != "01_only.html"} == {
        name: content for name, content in before.items() if name != "01_only.html"
    }


def test_a_notebook_that_was_renamed_takes_its_old_report_with_it(tmp_path, monkeypatch):
    params = small_project(tmp_path, monkeypatch, n01_old=notebook("Old", FIGURES, parameters=None))
    assert main(["run", str(params)]) == 0
    (tmp_path / "notebooks" / "01_old.ipynb").rename(tmp_path / "notebooks" / "01_new.ipynb")
    assert main(["run", str(params)]) == 0
    out = tmp_path / "reports" / "test"
    assert sorted(path.name for path in out.glob("*.html")) == ["01_new.html", "index.html"]
    assert list(read_json(out / "run.json")["notebooks"]) == ["01_new"] and (out / "figures" / "01_curve.png").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_read_only_output_folder_stops_before_anything_runs(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch)
    (tmp_path / "out").mkdir(mode=0o555)
    assert main(["run", str(params), "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_second_process_in_the_same_folder_is_told_so(tmp_path, monkeypatch, capsys):
    params = small_project(tmp_path, monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    with filelock.FileLock(out / ".lock"):
        assert main(["run", str(params), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"{out}: another run is writing this folder" in told
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("failing", [".ipynb", ".html", "metrics.json"])
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
    assert main(["run", str(params)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "space" in told[0] and "test" in told[0], told
    after = digest(out)
    assert read_json(out / "run.json")["status"] == "interrupted"
    kept = [name for name in before if name.startswith(("01_only", "metrics"))]
    assert len(kept) == 3 and all(after[name] == before[name] for name in kept)
    assert set(after) == set(before)


def test_the_kernel_is_this_interpreter_whatever_is_installed_as_python3(tmp_path, monkeypatch):
    impostor = tmp_path / "jupyter" / "kernels" / "python3"
    impostor.mkdir(parents=True)
    (impostor / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    cell = "import sys, os, pathlib\npathlib.Path('left.txt').write_text('x')\nassert sys.executable == os.environ['EXPECTED']"
    params = small_project(tmp_path, monkeypatch, n01_only=notebook("Only", cell, parameters=None))
    monkeypatch.setenv("EXPECTED", sys.executable)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(params)]) == 0
    assert not list(tmp_path.rglob("left.txt")), "a notebook works in a scratch folder"


def test_a_kernel_that_dies_is_a_failed_notebook(tmp_path, monkeypatch):
    dies = notebook("Dies", "print('before')", "import os\nos.kill(os.getpid(), 9)", "print('after')", parameters=None)
    params = small_project(tmp_path, monkeypatch, n01_dies=dies)
    assert main(["run", str(params)]) == 1
    report = (tmp_path / "reports" / "test" / "01_dies.html").read_text()
    assert "Kernel died" in report and ">before<" in report


def test_a_notebook_that_ends_itself_is_no_finished_one(tmp_path, monkeypatch):
    leaves = notebook("Leaves", "import sys\nsys.exit(0)", "print('after')", parameters=None)
    params = small_project(tmp_path, monkeypatch, n01_leaves=leaves)
    assert main(["run", str(params)]) == 1
    assert "SystemExit" in (tmp_path / "reports" / "test" / "index.html").read_text()


def test_what_a_notebook_writes_beside_its_tables_stops_nothing(tmp_path, monkeypatch):
    writes = """import os, pathlib
tables = pathlib.Path(os.environ["THYROID_REPORT_DIR"], "tables")
(tables / "folder").mkdir(parents=True)
(tables / "01_array.npz").write_bytes(bytes(range(256)))"""
    params = small_project(tmp_path, monkeypatch, n01_writes=notebook("Writes", writes, parameters=None))
    assert main(["run", str(params)]) == 0
    assert not list((tmp_path / "reports" / "test").glob("tables/*"))


def test_a_report_keeps_saying_how_it_was_made(tmp_path, monkeypatch):
    quick = notebook("Quick", "print(1)", parameters=None)
    params = small_project(tmp_path, monkeypatch, n01_one=quick, n02_two=quick)
    assert main(["run", str(params), "--only", "01"]) == 0
    other = params.rename(params.with_name("other.yaml"))
    out = tmp_path / "reports" / "test"
    assert main(["run", str(other), "--only", "02", "--out", str(out)]) == 0
    report = (out / "01_one.html").read_text()
    assert 'href="02_two.html"' in report, "written anew, for the link"
    assert "<dd>test.yaml</dd>" in report and "other.yaml" not in report


def start_and_wait(params: Path, marker: Path, root: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    environment = {**os.environ, "THYROID_WORKBOOK_ROOT": str(root)}
    command = [sys.executable, "-m", "thyroid_utils.workbook.cli", "run", str(params)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (marker.is_file() and len(marker.read_text().split()) == 2):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, [psutil.Process(int(number)) for number in marker.read_text().split()]


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_an_interruption_ends_kernels_and_keeps_what_was_finished(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    quick = notebook("Quick", "print(1)", parameters=None)
    slow = notebook("Slow", WAITS.format(marker=str(marker)), parameters=None)
    params = small_project(tmp_path, monkeypatch, n01_quick=quick, n02_slow=slow, n03_never=quick)
    process, kernel = start_and_wait(params, marker, tmp_path)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert ended(kernel, 5), "the kernel and what it started"
    assert "Interrupted" in output and "Traceback" not in errors, errors
    out = tmp_path / "reports" / "test"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "01_quick.html", "01_quick.ipynb", "index.html", "metrics.json", "run.json",
    ]  # fmt: skip
    run = read_json(out / "run.json")
    assert run["status"] == "interrupted"
    assert [record["status"] for record in run["notebooks"].values()] == ["finished", "interrupted", "not run"]
    assert "02_slow.html" not in (out / "01_quick.html").read_text(), "no link leads nowhere"
    assert "interrupted" in (out / "index.html").read_text()


def test_interrupting_a_second_run_leaves_the_first_report_as_it_was(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    params = small_project(tmp_path, monkeypatch, n01_one=notebook("One", "print('first')", parameters=None))
    assert main(["run", str(params)]) == 0
    out = tmp_path / "reports" / "test"
    before = digest(out)
    write_project(tmp_path, "title: Small\n", n01_one=notebook("One", WAITS.format(marker=str(marker)), parameters=None))
    process, kernel = start_and_wait(params, marker, tmp_path)
    process.terminate()
    process.communicate(timeout=30)
    after = digest(out)
    assert process.returncode == 130 and ended(kernel, 5) and set(after) == set(before)
    assert after["01_one.ipynb"] == before["01_one.ipynb"] and after["01_one.html"] == before["01_one.html"]
    run = read_json(out / "run.json")
    assert (run["status"], run["notebooks"]["01_one"]["status"]) == ("interrupted", "finished")


def test_a_killed_runner_leaves_no_kernel_and_the_next_run_clears_up(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    params = small_project(tmp_path, monkeypatch, n01_slow=notebook("Slow", WAITS.format(marker=str(marker)), parameters=None))
    process, (kernel, child) = start_and_wait(params, marker, tmp_path)
    process.kill()
    process.communicate()
    assert ended([kernel], 10)
    with contextlib.suppress(psutil.NoSuchProcess):
        child.kill()  # nobody is left to end what the kernel started
    out = tmp_path / "reports" / "test"
    assert (out / ".unfinished-01_slow").is_dir()
    write_project(tmp_path, "title: Small\n", n01_slow=notebook("Slow", "print(1)", parameters=None))
    assert main(["run", str(params)]) == 0
    assert not list(out.glob(".unfinished-*")) and (out / "01_slow.html").is_file()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 3}'])
def test_an_unreadable_record_of_earlier_runs_is_no_obstacle(tmp_path, monkeypatch, content):
    params = small_project(tmp_path, monkeypatch)
    out = tmp_path / "reports" / "test"
    out.mkdir(parents=True)
    (out / "run.json").write_text(content)
    (out / "metrics.json").write_text(content)
    assert main(["run", str(params)]) == 0
    assert read_json(out / "run.json")["status"] == "finished"
