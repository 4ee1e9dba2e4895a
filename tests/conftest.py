"""What several test files share."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thyroid_utils.common import paths

collect_ignore = ["new_study"]  # laid into a copy of the project by `test_new_study`


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds `ddti/` and `tg3k/`: `THYROID_WORKBOOK_DATA` when set, else `../shared/data` beside the project."""
    folder = Path(os.environ.get("THYROID_WORKBOOK_DATA", paths.project_root().parent / "shared" / "data"))
    if not (folder / "ddti" / "labels.csv").is_file():
        pytest.skip("no real data: set THYROID_WORKBOOK_DATA to a folder with ddti/ and tg3k/")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """The same sums in the same order on every machine."""
    import torch  # the fixture alone needs it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium or Chrome on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # --no-sandbox: containers, in which such tests run, often allow no user namespaces
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser):
    """Opens a page of the workbook without network and holds it to what every page must be: it asks for nothing, its console is
    quiet, it is no wider than its screen, every picture is to be seen and has words, and the dark page is dark."""

    def opened(path: Path, width: int = 1400, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        told: list[str] = []
        page.on("request", lambda request: told.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.on("console", lambda message: told.append(message.text))
        page.route("http*://**", lambda route: route.abort())
        page.goto(path.as_uri())
        assert told == [] and page.evaluate("document.scripts.length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width, i.alt])")
        assert pictures or "fails" in path.name
        assert all(natural > 30 and shown > 100 and words for natural, shown, words in pictures), pictures
        colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        background, text = (sum(int(part) for part in colour[4:-1].split(",")) / 3 for colour in colours)
        assert (background < 60 and text > 180) if scheme == "dark" else (background > 200 and text < 80), colours
        return page

    return opened


@pytest.fixture(scope="module")
def serve():
    """Starts `thyroid-workbook app` on a free port and gives its address; what it started ends with the tests of the module."""
    started: list[subprocess.Popen] = []

    def address(*arguments: str | Path, **environment: str) -> str:
        command = [sys.executable, "-m", "thyroid_utils.workbook.cli", "app", *map(str, arguments), "--port", "0"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment))
        return next(line for line in started[-1].stdout if "http://" in line).split()[-1]

    address.processes = started
    yield address
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
