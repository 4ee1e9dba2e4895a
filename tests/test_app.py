"""The app's server, before a notebook of three lines: what it gives to whom, and what it refuses."""

import json
import re
import signal
import socket
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import requests
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from thyroid_utils.workbook import cli

CELLS = ('REPORT = ""', "import os\nprint(f'asked for {REPORT}, kernel {os.getpid()}')", "1 / 0")
WANDERING = ("..", "%2e%2e", "%2e%2e%2f%2e%2e")


@pytest.fixture(scope="module")
def app(serve, tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    report, notebook = (
        root / "report",
        nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}),
    )
    report.mkdir()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (root / "notebooks").mkdir()
    (root / "notebooks" / "x.png").touch()
    nbformat.write(notebook, root / "notebooks" / "case_review.ipynb")
    url, _, token = serve(report, THYROID_WORKBOOK_ROOT=str(root)).partition("?token=")

    def get(path: str = "", **headers: str) -> requests.Response:
        request = requests.Request("GET", url, headers=headers).prepare()
        request.url = url + path  # as it is, with its dots
        return requests.Session().send(request, allow_redirects=False)

    page = requests.get(url, {"token": token})
    told = re.search(r"asked for (.*), kernel (\d+)", page.text)
    seen = {"report": report, "page": page, "kernel": re.search(r'"kernelId": "([\w-]+)"', page.text)[1]}
    return SimpleNamespace(get=get, url=url, token=token, asked=told[1], process=int(told[2]), **seen)


def test_the_page_is_of_the_report_named_and_shows_no_traceback(app):
    assert app.page.status_code == 200 and app.asked == str(app.report)
    assert "ZeroDivisionError" not in app.page.text and "1 / 0" not in app.page.text
    policy = app.page.headers["Content-Security-Policy"]  # a browser asks nobody else, and no other page frames this one
    assert policy.startswith("default-src 'self' data: blob:") and "http" not in policy and "frame-ancestors 'none'" in policy
    assert "SameSite=Strict" in app.page.headers["Set-Cookie"] and "HttpOnly" in app.page.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["", "?token=wrong", "?token=", "api/kernels/{kernel}", "api/kernels/{kernel}/channels"])
def test_without_the_token_there_is_a_form_that_asks_for_it_or_nothing(app, path):
    answer = app.get(path.format(kernel=app.kernel))
    assert (answer.status_code, answer.headers.get("Location", "")[:6]) in ((302, "/login"), (403, ""))
    assert "asked for" not in answer.text


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "path",
    ["case_review.ipynb", "files/x.png", "notebooks/case_review.ipynb", "tree", "lab", "terminals/1", "voila/tree"]
    + ["voila/files/case_review.ipynb", "voila/files/x.png", "voila/render/case_review.ipynb", "voila/api/contents"]
    + ["api/contents", "api/contents/case_review.ipynb", "api/kernels", "api/sessions", "api/terminals", "view/x", "nbconvert/x"]
    + [f"{folder}/{up}/{up}/{up}/notebooks/case_review.ipynb" for folder in ("voila/static", "voila/files") for up in WANDERING]
    + [f"voila/labextensions/{up}/{up}/kernels/python3/kernel.json" for up in WANDERING]
    + [f"voila/templates/lab/static/{up}/{up}/lab/index.html.j2" for up in WANDERING]
    + [f"voila/templates/{up}/static/x" for up in WANDERING],
)
def test_no_file_and_no_other_service_of_the_machine_is_reached(app, path, known):
    assert app.get(path, **({"Authorization": f"token {app.token}"} if known else {})).status_code in (403, 404)


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:8866", "192.0.2.1"])
def test_a_name_of_elsewhere_that_leads_here_is_refused_even_with_the_token(app, host):
    assert app.get(f"?token={app.token}", Host=host).status_code == 403


def _asked_of_kernel(app, kind: str, **headers: str) -> list[dict]:
    """What a kernel answers to a message and to a harmless one after it."""

    async def ask() -> list[dict]:
        address = f"{app.url.replace('http', 'ws')}api/kernels/{app.kernel}/channels"
        socket = await websocket_connect(HTTPRequest(address, headers=headers))
        answers = []
        for number, (name, content) in enumerate(
            [(kind, {"code": "print('run')", "silent": False}), ("kernel_info_request", {})]
        ):
            header = {"msg_id": f"{number}", "msg_type": name, "session": "s", "username": "", "version": "5.4"}
            message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
            await socket.write_message(json.dumps(message))
        while not any(answer["msg_type"] == "kernel_info_reply" for answer in answers):
            answers.append(json.loads(await socket.read_message()))
        return answers

    return IOLoop().run_sync(ask, timeout=30)


def test_a_browser_cannot_have_code_run(app):
    answers = _asked_of_kernel(app, "execute_request", Authorization=f"token {app.token}")
    assert "execute_reply" not in {answer["msg_type"] for answer in answers} and "run" not in json.dumps(answers)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://elsewhere.example"}, {"Origin": "http://127.0.0.1:1"}])
def test_another_page_cannot_speak_to_a_kernel(app, headers):
    known = {"Cookie": "; ".join(f"{name}={value}" for name, value in app.page.cookies.items())} if headers else {}
    with pytest.raises(HTTPClientError, match="403"):
        _asked_of_kernel(app, "kernel_info_request", **known, **headers)


def test_a_large_request_is_refused_before_it_is_read(app):
    connection = HTTPConnection(app.url.split("/")[2], timeout=20)
    connection.putrequest("POST", "/voila/api/shutdown/x")
    connection.putheader("Content-Length", str(20 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 400


def test_a_page_that_is_closed_ends_its_kernel_and_no_other_site_does(app):
    with requests.Session() as browser:
        page = browser.get(app.url, params={"token": app.token}).text
        process = Path("/proc", re.search(r"kernel (\d+)", page)[1])
        beacon = f"{app.url}voila/api/shutdown/" + re.search(r'"kernelId": "([\w-]+)"', page)[1]
        assert requests.post(beacon).status_code == 403 and process.exists()
        assert browser.post(beacon, headers={"Origin": app.url.rstrip("/")}).status_code == 204
    assert not process.exists()


def test_each_page_has_a_kernel_of_its_own_and_the_last_word_ends_them(app, serve):
    other = requests.get(app.url, {"token": app.token}).text
    processes = {app.process, int(re.search(r"kernel (\d+)", other)[1])}
    assert len(processes) == 2
    server = serve.processes.pop()
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0 and "ended" in server.stdout.read()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "port {port} is taken"), (["/no/such/folder"], "/no/such/folder is no folder; give that of a finished report")],
)
def test_what_keeps_it_from_starting_is_told(arguments, told, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["app", *arguments, "--port", str(port)]) == 2
    assert told.format(port=port) in capsys.readouterr().err
