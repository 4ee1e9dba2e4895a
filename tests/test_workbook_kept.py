"""A report that nothing has changed for is kept; each thing that has changed makes it anew. No kernel: cells are played."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_output
from workbook_project import notebook, read_json, write_project

from thyroid_utils.training.ledger import RunDamaged
from thyroid_utils.workbook import kept, run
from thyroid_utils.workbook.cli import main
from thyroid_utils.workbook.notebooks import read_notebook

PARAMETERS = 'DATASET = "phantom"  # text\nDATA_ROOT = ""  # folder\nWEIGHTS = {"unet": "none"}  # files'


class Project:
    """A project of one notebook that reads `data/`, starts from `start.pt`, loads a run and leaves a figure and a table."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch, self.begun, self.meanwhile = root, monkeypatch, 0, lambda: None
        monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(root))
        for file in ("data/image/a.png", "elsewhere/b.png", "package/code.py", "start.pt", "run/complete.json"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("1")
        (root / "data" / "linked").symlink_to(root / "elsewhere")
        (root / "data" / "linked" / "loop").symlink_to(root / "data")
        (root / "package" / "__pycache__").mkdir()
        self.params = write_project(root, "title: Small\n", n01_only=notebook("Only", "work()", parameters=PARAMETERS))
        self.notebook, self.out = root / "notebooks" / "01_only.ipynb", root / "reports" / "test"
        monkeypatch.setattr(run, "execute_notebook", self.play)
        monkeypatch.setattr(kept.thyroid_utils, "__file__", str(root / "package" / "__init__.py"))
        self.find_run(lambda name: SimpleNamespace(folder=root / "run"))

    def find_run(self, find) -> None:
        self.patch.setattr(kept, "find_run", find)

    def play(self, path, parameters, *, variables, **_):
        self.begun += 1
        self.meanwhile()
        node, staging = read_notebook(path), Path(variables["THYROID_REPORT_DIR"])
        for file in ("figures/01_a.png", "figures/01_a.pdf", "tables/01_b.csv", "tables/01_b.tex"):
            (staging / file).parent.mkdir(exist_ok=True)
            (staging / file).write_text("1")
        (staging / "metrics.json").write_text('{"01_only": {"n": {"value": 3, "label": null, "unit": null}}}')
        notes = [{"figure": "figures/01_a", "caption": "a"}, {"table": "tables/01_b", "caption": "b"}]
        outputs = [new_output("display_data", {"text/plain": "x"}, metadata={"thyroid": note}) for note in notes]
        node.cells[-1].outputs = [*outputs, new_output("stream", name="stdout", text="unet: 1 epoch, run 0123abcd\n")]
        return node, None

    def run(self, *more: str) -> bool:
        """Whether the notebook was begun."""
        before, given = self.begun, ["--data-root", str(self.root / "data"), "--set", "WEIGHTS={unet: start.pt}"]
        assert main(["run", str(self.params), *given, *more]) == 0
        return self.begun > before

    def write(self, file: str, content: str = "2"):
        path = self.root / file
        path.write_text(content)

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr("thyroid_utils.workbook.report.thumbnail", lambda *_: None)
    monkeypatch.setattr(run, "check_notebooks", lambda *_: None)
    return Project(tmp_path, monkeypatch)


def damaged(name: str):
    raise RunDamaged("run 0123abcd: weights.safetensors is missing")


def library(version: str):
    return SimpleNamespace(distributions=lambda: [SimpleNamespace(name="torch", version=version)])


def redated(project: Project) -> None:
    """An image of the same size, whose date is set back to what it was."""
    path = project.root / "data" / "image" / "a.png"
    dates = path.stat()
    path.write_text("2")
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))


FILES = ["01_only.html", "01_only.ipynb", "metrics.json"]
FILES += ["figures/01_a.png", "figures/01_a.pdf", "tables/01_b.csv", "tables/01_b.tex"]
KEPT = {
    "nothing": lambda project: None,
    "how many side by side": lambda project: ("--jobs", "3"),
    "what Python compiles": lambda project: project.write("package/__pycache__/code.pyc"),
    "another notebook": lambda project: project.write("notebooks/x.ipynb"),
}
CHANGES = {
    "asked for": lambda project: ("--again",),
    "notebook": lambda project: project.edit(project.notebook, "work()", "rest()"),
    "parameter": lambda project: ("--set", "DATASET=ddti"),
    "parameter file": lambda project: project.edit(project.params, "Small", "Large"),
    "code unfolded": lambda project: ("--show-code",),
    "picture in the prose": lambda project: project.write("notebooks/p.png"),
    "package": lambda project: project.write("package/code.py"),
    "template": lambda project: project.write("package/page.html.j2"),
    "library": lambda project: project.patch.setattr(kept, "metadata", library("9")),
    "image of the same size and date": redated,
    "image more": lambda project: project.write("data/image/c.png"),
    "image less": lambda project: (project.root / "data/image/a.png").unlink(),
    "image behind a link": lambda project: project.write("elsewhere/b.png"),
    "weights": lambda project: project.write("start.pt"),
    "run removed": lambda project: project.find_run(lambda name: None),
    "run damaged": lambda project: project.find_run(damaged),
    "run made again": lambda project: project.write("run/complete.json"),
    "record": lambda project: (project.out / "run.json").unlink(),
    **{f"{file} edited": lambda project, file=file: project.write(f"reports/test/{file}", "{}") for file in FILES},
    **{f"{file} missing": lambda project, file=file: (project.out / file).unlink() for file in FILES},
}


@pytest.mark.parametrize("what", KEPT | CHANGES)
def test_a_report_is_kept_as_long_as_nothing_changes(project, capsys, what):
    project.patch.setattr(kept, "metadata", library("1"))
    assert project.run()
    started = read_json(project.out / "run.json")["notebooks"]["01_only"]["started"]
    if what == "record":
        for file in ("01_only.html", "01_only.ipynb", "index.html"):
            (project.out / file).unlink()
    changed = (KEPT | CHANGES)[what](project) or ()
    capsys.readouterr()
    assert project.run(*changed) is (what in CHANGES)
    told, record = capsys.readouterr().out, read_json(project.out / "run.json")["notebooks"]["01_only"]
    index = (project.out / "index.html").read_text()
    sentence = f"kept, nothing has changed since {started[:16].replace('T', ' ')}"
    assert (f"01_only: {sentence}" in told) is (sentence in index) is (what in KEPT)
    assert record["status"] == "finished" and record["rerun"] is None and record["kept"] is (what in KEPT)


def test_what_changed_while_it_ran_or_was_marked_is_not_kept(project):
    source = project.notebook.read_text()
    project.meanwhile = lambda: project.edit(project.notebook, "work()", "rest()")
    assert project.run()
    project.notebook.write_text(source)
    project.meanwhile = lambda: None
    assert project.run(), "nobody knows which of both it is from"
    assert not project.run()
    document = read_json(project.out / "run.json")
    document["notebooks"]["01_only"]["rerun"] = {"status": "failed", "started": "", "error": None, "page": None}
    (project.out / "run.json").write_text(json.dumps(document))
    assert project.run(), "the last run of it failed"
    assert not project.run() and not project.run()
