"""`thyroid-workbook app`: a server of one notebook, `case_review`, for people who sit at this machine.

A browser may send widgets' messages and nothing that is run as code, and reaches nothing but the page, its parts and its kernel.
"""

import errno
import logging
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from jupyter_server.auth.identity import IdentityProvider
from nbformat import NotebookNode
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from traitlets.config import Config
from voila.app import Voila
from voila.paths import STATIC_ROOT
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler

from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError
from thyroid_utils.workbook.review import MOST_BYTES

HOST, PORT = "127.0.0.1", 8866
IDLE = 600  # seconds until a kernel goes that no page holds any more; a page that is closed ends its own
# Libraries of pages name font and script servers elsewhere: a browser that heeds this asks none of them.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; object-src 'none'"
_FEWER = {"/(.*)": "/()", "/voila/templates/(.*)": r"/voila/templates/(lab/static/[\w.-]+)"}  # than Voilà's paths


class _EndOfPage(VoilaShutdownKernelHandler):
    """A page that is closed ends its kernel by a beacon, which cannot carry the argument against forged requests; its cookie is
    sent by this site's pages alone."""

    def check_xsrf_cookie(self) -> None:
        pass


class _Server(Voila):
    """Voilà with sockets of its own, for it would try other ports than it is told, and with no more paths than its page needs."""

    def init_handlers(self) -> list:
        own = {VoilaShutdownKernelHandler: _EndOfPage}
        asked = [(path, own.get(handler, handler), *rest) for path, handler, *rest in super().init_handlers()]
        return [(_FEWER.get(path, path), *rest) for path, *rest in asked if "/files/" not in path]

    def listen(self) -> None:
        server = HTTPServer(self.app, max_body_size=2**20)  # uploads come by the kernel's socket
        server.add_sockets(self.sockets)
        url = f"http://{HOST}:{self.sockets[0].getsockname()[1]}/?token={self.token}"
        typer.echo(
            f"Look at cases at {url}\nThe address is the key: who has it and sits at this machine sees them. Ctrl-C ends it."
        )
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script's background job is born without
        self.ioloop = IOLoop.current()
        try:
            self.ioloop.start()
        except KeyboardInterrupt:
            typer.echo("ended")
        finally:
            self.stop()


def serve(report: Path | None = None, port: int = PORT) -> None:
    """Serve `notebooks/case_review.ipynb` on this machine until Ctrl-C, a kernel for each page that is opened.

    Args:
        report: folder of a finished report; None leaves the choice to the notebook, which takes the newest.
        port: 1 to 65535; 0 takes a free one.

    Raises:
        ParameterError: no such folder, or the port is taken or may not be used.
    """
    if report is not None and not report.is_dir():
        raise ParameterError(f"app: {report} is no folder; give that of a finished report, as reports/quick")
    try:
        sockets = bind_sockets(port, HOST)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "is taken, perhaps by an app that still runs" if taken else "cannot be used"
        raise ParameterError(f"app: port {port} {why}; end that, or give another port: --port 0 takes a free one") from None
    typer.echo("Reading the report …")
    code = "import sys; from thyroid_utils.studies.case_review import prepare; prepare(sys.argv[1])"
    reading = subprocess.Popen([sys.executable, "-c", code, str(report.absolute()) if report else ""])  # keeps PyTorch's memory
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # it would print addresses, and so the token
    server = _Server(config=_settings(report))
    server.sockets = sockets
    server.initialize([])
    reading.wait()
    server.start()


def _settings(report: Path | None) -> Config:
    def with_report(_: Any, notebook: NotebookNode, cwd: str) -> None:
        for cell in notebook.cells:
            if report is not None and "parameters" in cell.metadata.get("tags", ()):
                cell.source += f"\nREPORT = {str(report.absolute())!r}"

    voila = {
        "ip": HOST,
        "token": secrets.token_urlsafe(32),
        "notebook_path": str(paths.notebooks_dir() / "case_review.ipynb"),
        "open_browser": False,
        "config_file_paths": [],  # what stands here holds
        "log_level": logging.ERROR,
        "identity_provider_class": IdentityProvider,  # which has a token and no password
        "tornado_settings": {
            "allow_remote_access": False,  # refuse a Host that is not this machine: another site's name may lead here
            "static_path": STATIC_ROOT,  # pages of errors name a file there
            "ws_ping_timeout": 30_000,  # ms, as the interval
            "websocket_max_message_size": 2 * MOST_BYTES,
            "headers": {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"},
        },
    }
    page = {"allow_template_override": "NO", "allow_theme_override": "NO", "show_tracebacks": False}
    return Config(
        Voila=voila,
        VoilaConfiguration={**page, "prelaunch_hook": with_report},
        IdentityProvider={"cookie_options": {"samesite": "Strict"}},
        MappingKernelManager={"cull_idle_timeout": IDLE},
        KernelManager={"transport_encryption": "auto"},
    )
