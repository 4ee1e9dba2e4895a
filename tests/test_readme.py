"""What README and the examples in docstrings tell people to type does what it says."""

import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional
from training_project import tiny_config

import thyroid_utils
from thyroid_utils.common import paths
from thyroid_utils.inference.cam import target_layer
from thyroid_utils.models import Architecture, networks
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, network_source
from thyroid_utils.plots import charts
from thyroid_utils.scores.estimates import Estimate
from thyroid_utils.training.fit import fit_or_load

README = (paths.project_root() / "README.md").read_text(encoding="utf-8")


def code(section: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.split(f"\n## {section}\n")[1].split("\n## ")[0], flags=re.DOTALL)


def test_a_network_of_ones_own_in_ten_lines_trains_is_explained_and_its_run_is_read(tmp_path, monkeypatch, capsys):
    """Written, registered, built, one step, the layer of Grad-CAM, a run of it; and no other network's runs are lost."""
    before = network_source("resnet18"), network_source("transunet")
    file, entry = code("Your own network in ten lines")
    name = re.match(r"# thyroid_utils/models/(\w+)\.py\n", file)[1]
    assert len([line for line in file.splitlines()[1:] if line.strip()]) <= 10
    (tmp_path / f"{name}.py").write_text(file)
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    found = eval(f"{{{entry}}}", {"Architecture": Architecture, **vars(module)})
    assert list(found) == [name]
    monkeypatch.setitem(CLASSIFIERS, name, found[name])
    assert (network_source("resnet18"), network_source("transunet")) == before
    monkeypatch.setattr(networks, "__file__", str(tmp_path / "networks.py"))
    assert network_source(name), "its file counts in the names of its runs"

    network = build_classifier(name, in_channels=1, width=4)
    images, labels = torch.rand(4, 1, 64, 64), torch.tensor([0, 1, 0, 1])
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    losses = []
    for _ in range(3):
        losses.append(functional.cross_entropy(network(images), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    layer = target_layer(network).module
    assert layer is network.network[0]
    monkeypatch.setitem(CLASSIFIERS, "guessed", Architecture(module.TinyCNN))
    guessed = build_classifier("guessed", in_channels=1)
    assert target_layer(guessed).module in set(guessed.network[0].modules()), "without `explained` one is found by a trial"

    monkeypatch.setenv("THYROID_WORKBOOK_RUNS", str(tmp_path / "runs"))
    run = fit_or_load(tiny_config(model={"name": name, "options": {"width": 4}}, training__epochs=1))
    (reading,) = code("What was trained, and what it said")
    said: dict = {}
    exec(reading.replace('"RUN"', repr(run.name[:8])), said)
    assert said["run"].name == run.name and name in capsys.readouterr().out
    expected = run.predictions[run.predictions["split"].eq("test")]
    pd.testing.assert_frame_equal(said["test"], expected)
    assert set(said["missed"].index) == set(expected.index[expected["label"].eq(1) & expected["probability"].lt(0.5)])


def test_a_figure_for_a_paper_is_written_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (figure,) = code("A figure for a paper")
    estimates = pd.DataFrame({"accuracy": [Estimate(0.6, 0.5, 0.7, 9, 4)]}, index=["a"])
    exec(figure, {"score_dots": charts.score_dots, "estimates": estimates, "names": {"accuracy": "accuracy"}})
    assert "Genauigkeit" in (tmp_path / "auc.svg").read_text() and (tmp_path / "auc.pdf").stat().st_size


ROOT = Path(thyroid_utils.__file__).parents[1]
SHOWING = [path for path in sorted((ROOT / "thyroid_utils").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SHOWING])
def test_examples(name, capsys):
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted and not found.failed, capsys.readouterr().out
