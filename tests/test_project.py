"""The project's own files held to each other: dependencies, layers, commands."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "thyroid_utils"

# The rooms of the package from the ground up; a room imports from itself or from a room below it.
FLOORS = {
    "common": 1, "data": 2, "preprocess": 3, "models": 4, "scores": 4, "training": 5, "inference": 6, "studies": 7,
    "plots": 8, "workbook": 8,
}  # fmt: skip


def locked() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_lock_holds_declared_versions_and_make_help_and_readme_what_there_is():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+( ; sys_platform == \"linux\")?", line), line
    project, pins = pyproject()["project"], {}
    for requirement in map(Requirement, sum(project["optional-dependencies"].values(), project["dependencies"])):
        if requirement.name == project["name"]:
            continue
        (pin,) = locked()[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} does not admit the locked {pin.version}"
        pins[requirement.name] = Version(pin.version)
    assert pins["torchvision"].minor - 15 == pins["torch"].minor, "torchvision 0.N is built against torch 2.(N - 15)"
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"report", "test", "lab", "lint", "clean"} <= set(targets)
    for target in targets:
        assert re.search(rf"^  make {target} +\S+", listed, re.M), target
    shown = re.findall(r'src="(reports/gallery/\d\d_\w+\.webp)"', (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("reports/gallery/[0-9]*.webp"))
    assert len(shown) >= 9 and max((ROOT / picture).stat().st_size for picture in shown) <= 60_000


def test_a_hub_installs_the_lock_for_cpus_and_readmes_links_open_notebooks_there(tmp_path):
    hub, readme = ROOT / ".binder", (ROOT / "README.md").read_text()
    for name in ("Makefile", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".binder").mkdir()
    subprocess.run(["make", "-s", ".binder/requirements.txt"], cwd=tmp_path, check=True)
    index, *lines = [line for line in (hub / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    written = (tmp_path / ".binder/requirements.txt").read_text().splitlines()[1:]
    assert written == [index, *lines], "the lock has changed: make .binder/requirements.txt"
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    installed = {canonicalize_name(line.name): line for line in map(Requirement, lines)}
    for name, line in locked().items():
        if re.match(r"(nvidia|cuda)-|(triton|playwright|ruff|statsmodels)$", name):
            assert name not in installed
        else:
            assert str(installed.pop(name).specifier) == f"{line.specifier}{'+cpu' * (name in ('torch', 'torchvision'))}"
    assert not installed, "and nothing else"
    runtime = (hub / "runtime.txt").read_text().strip()
    assert runtime.replace("-", "=") in (ROOT / "environment.yml").read_text() and os.access(hub / "postBuild", os.X_OK)
    opened = re.findall(r"/HEAD\?labpath=notebooks%2F(\w+\.ipynb)", readme)
    assert [name[:2] for name in opened] == ["01", "03"] and all((ROOT / "notebooks" / name).is_file() for name in opened)


@pytest.mark.skipif(Path(sys.prefix).name != ".venv", reason="not the environment that make installs from the lock")
def test_installed_versions_are_the_locked_ones():
    for name, requirement in locked().items():
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(metadata.version(name)), f"{name}: {metadata.version(name)} is installed"


def imported_rooms(module: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("thyroid_utils.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_room_or_from_rooms_below(module):
    room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert not imported_rooms(module)
        return
    upward = {other for other in imported_rooms(module) - {room} if FLOORS[other] >= FLOORS[room]}
    assert not upward, f"{room} (floor {FLOORS[room]}) imports {upward}"


FAKE_PYTHON = """#!/bin/bash
# Stands in for python3: -c and --version answer, `-m venv` makes an environment of this very script, pip follows PIP_RESULT.
here="$(dirname "$0")"
case "$*" in
  -c*|--version*) echo "Python 3.11.0";;
  "-m venv"*) target="${@: -1}"; mkdir -p "$target/bin"; cp "$0" "$target/bin/python"; cp "$0" "$target/bin/thyroid-workbook";;
  *"pip --version"*) ;;
  *"pip install"*) echo "pip $*" >> pip.log; exit "${PIP_RESULT:-0}";;
  run*) echo "RAN $*";;
esac
"""


def test_make_finishes_a_set_up_that_was_interrupted(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def make(result: str):
        environment = {"PATH": "/usr/bin:/bin", "PIP_RESULT": result}
        return subprocess.run(
            ["make", "report", f"PYTHON={python}"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    interrupted = make("1")
    assert interrupted.returncode != 0 and "Run make again" in interrupted.stdout
    finished = make("0")
    assert finished.returncode == 0, finished.stderr
    assert "Creating" not in finished.stdout and "RAN run params/quick.yaml" in finished.stdout
    calls = (tmp_path / "pip.log").read_text()
    assert make("0").returncode == 0 and (tmp_path / "pip.log").read_text() == calls, "nothing to install the second time"
    (tmp_path / "requirements.lock").write_text("torch==0\n")
    assert "Bringing .venv up to requirements.lock" in make("0").stdout
