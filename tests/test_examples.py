"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import thyroid_utils

ROOT = Path(thyroid_utils.__file__).parents[1]
SHOWING = [path for path in sorted((ROOT / "thyroid_utils").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SHOWING])
def test_examples(name, capsys):
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted and not found.failed, capsys.readouterr().out
