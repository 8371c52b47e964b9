"""`lambda-grpo report --watch`: a server of one page, for browsers on this machine.

It answers GET and HEAD of "/", and refuses everything else: no path of a request is looked up on the disk.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.report.live_page import LivePage, what_is_missing
from lambda_grpo.runs.directory import Run

ADDRESS = "127.0.0.1"
FIRST_PORT, LAST_PORT = 1024, 65535  # a browser leaves the port 80 out of the Host header, which is compared with ours
CLIENT_SECONDS = 5.0  # for each piece that a client sends or receives


def watch(directory: Path, port: int) -> None:
    """Serve the page of the run or the study in a directory until Ctrl-C; print its address.

    The directory may be one in which a run is still to begin: it doesn't exist, is empty, or holds an unfinished study.

    Args:
        port: 0 for any free one.

    Raises:
        UserError: the directory holds something else, or the port can't be used.
    """
    missing = what_is_missing(directory)
    if missing and directory.exists():
        if not directory.is_dir():
            raise UserError(f"{directory} is a file: give the output_dir of a run or a study")
        if any(directory.iterdir()) and not (directory / "study.json").is_file():
            Run.open(directory)  # raises UserError, which says what it lacks
    with PageServer(LivePage(directory), port) as server:
        print(f"Page: {server.url} (Ctrl-C ends it)", flush=True)
        if missing:
            print(missing, file=sys.stderr)
        server.serve_forever()


class PageServer(ThreadingHTTPServer):
    """The server of a page, with a thread for each request, so that a slow client keeps nobody waiting.

    Raises:
        UserError: the port can't be used.
    """

    def __init__(self, page: LivePage, port: int):
        if port != 0 and not FIRST_PORT <= port <= LAST_PORT:
            raise UserError(f"--port must be 0 or from {FIRST_PORT} to {LAST_PORT}, got {port}")
        self.page = page
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"port {port} can't be used ({reason}): choose another --port, 0 for any") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.url = f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = CLIENT_SECONDS
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def parse_request(self) -> bool:
        """Read the request's head, and refuse what isn't meant for this page. Returns whether to go on."""
        if not super().parse_request():
            return False
        if self.command not in ("GET", "HEAD"):
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif len(hosts := self.headers.get_all("Host", [])) != 1:
            self.send_error(HTTPStatus.BAD_REQUEST, "need one Host header")
        elif hosts[0].strip().lower() not in self.server.hosts:  # another site's name that leads to this machine
            self.send_error(HTTPStatus.FORBIDDEN, f"open {self.server.url}")
        elif self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            return True
        return False

    def do_GET(self) -> None:
        version = self.server.page.current()
        known = [tag.strip().removeprefix("W/") for tag in self.headers.get("If-None-Match", "").split(",")]
        is_known = version.status == HTTPStatus.OK and version.etag in known
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else version.status)
        self.send_header("ETag", version.etag)
        if not is_known:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(version.html)))
            self.send_header("Content-Security-Policy", version.policy)
        self.end_headers()
        if not is_known and self.command == "GET":
            self.wfile.write(version.html)

    do_HEAD = do_GET  # noqa: N815

    def version_string(self) -> str:
        return "lambda-grpo"

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""
