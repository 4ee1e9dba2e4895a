"""The notebooks under nbval: at the sizes of params/smoke.yaml, and what no cell may show."""

import json
import re

from thyroid_utils.common import paths
from thyroid_utils.workbook.parameters import parameters_by_notebook, read_parameter_file


def pytest_collection_modifyitems(items):
    """The values of params/smoke.yaml behind the defaults, in the same cell, for nbval knows no papermill."""
    cells = [item for item in items if "parameters" in getattr(item, "cell", {}).get("metadata", {}).get("tags", [])]
    given = parameters_by_notebook(read_parameter_file(paths.params_dir() / "smoke.yaml")) if cells else {}
    for item in cells:
        values = given.get(item.path.stem, {})
        item.cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())


def pytest_runtest_teardown(item):
    shown = json.dumps(getattr(item, "test_outputs", []))
    named = re.search(r"phantom-\d{4}", shown)
    assert not named, f"{item.name} names a patient: {named.group()}"
