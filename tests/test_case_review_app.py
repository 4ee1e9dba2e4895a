"""The app in headless Chromium: open, filter, step by keyboard, move the threshold, several networks side by side."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from review_project import reviewed

from thyroid_utils.common import paths

STARTING = 120  # seconds that a server may take on a busy machine


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with reviewed(tmp_path_factory.mktemp("review")) as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def app(browser, report):
    """The URL of a server of the app on the tiny report."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebook = paths.notebooks_dir() / "case_review.ipynb"
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    environment = {**os.environ, "THYROID_WORKBOOK_REPORT": str(report), "PYTHONPATH": str(paths.project_root())}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(STARTING * 4):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def page(browser, app):
    """The app, opened and ready to be used."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.goto(app, timeout=1000 * STARTING)
    opened.wait_for_selector("select option", state="attached", timeout=1000 * STARTING)
    yield opened
    opened.close()


def test_it_opens_on_the_first_case_and_says_what_it_is_for(page):
    assert "not a medical device" in page.inner_text("body")
    assert page.locator("select option").count() == 11
