"""What no cell may show where the notebooks are run under nbval."""

import json
import re


def pytest_runtest_teardown(item):
    shown = json.dumps(getattr(item, "test_outputs", []))
    named = re.search(r"phantom-\d{4}", shown)
    assert not named, f"{item.name} names a patient: {named.group()}"
