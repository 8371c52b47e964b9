"""The page of a run or a study as its files are now, made in memory: what `lambda-grpo report --watch` serves."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from lambda_grpo.report.pages import is_study, render_page
from lambda_grpo.report.rendering import render, static_text
from lambda_grpo.runs.directory import is_run
from lambda_grpo.suggestions import did_you_mean

REST = 9  # pauses between two renderings are at least so many times as long as one: the trainer needs the cores
# What a page is made from. `completions` stands for its files, each of which is renamed into it.
FILES = ("run.json", "metrics.jsonl", "completions", "overlap.json", "study.json", "results.json")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


@dataclass(frozen=True)
class LiveVersion:
    """A page at one time.

    Attributes:
        policy: its content security policy, for the response's header.
        etag: equal for equal pages.
        status: the response's status: 500 if the page couldn't be made, and says so.
    """

    html: bytes
    policy: str
    etag: str
    status: int


class LivePage:
    """The page of a directory, made again when its files have changed. Writes nothing. Thread-safe.

    The directory need not hold a run yet: until then the page says what it waits for.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._lock = threading.Lock()
        self._version: LiveVersion | None = None
        self._state: list[tuple[str, int, int]] = []  # of the files that the version was made from
        self._keep_until = 0.0

    def current(self) -> LiveVersion:
        """The page as the files are now, or as they were while making it again would take too much of the time."""
        with self._lock:
            started = time.monotonic()
            if self._version is None or (started >= self._keep_until and self._state != _state(self.directory)):
                self._state = _state(self.directory)  # before the files are read: a later change is noticed next time
                self._version = self._make()
                ended = time.monotonic()
                self._keep_until = ended + REST * (ended - started)
            return self._version

    def _make(self) -> LiveVersion:
        try:
            return _version(self._render())
        except Exception as error:  # whatever is wrong with the files, they may be whole again in a moment
            traceback.print_exc(file=sys.stderr)
            sentence = f"The page of {self.directory} can't be made: {type(error).__name__}: {error}"
            return _version(render("live_message.html.j2", title="no page", sentence=sentence), status=500)

    def _render(self) -> str:
        return render_page(self.directory) or render(
            "live_message.html.j2", title="waiting", sentence=what_is_missing(self.directory)
        )


def what_is_missing(directory: Path) -> str | None:
    """What a page of this directory waits for, in a sentence; None if there is a run or a study's result."""
    if is_run(directory) or is_study(directory):
        return None
    if (directory / "study.json").is_file():
        return f"Waiting for {directory.absolute() / 'results.json'}: the study writes it when its runs have ended."
    if directory.exists():
        return f"Waiting for {directory.absolute() / 'run.json'}: no run has begun there yet."
    siblings = [path.name for path in directory.absolute().parent.glob("*") if path.is_dir()]
    meant = did_you_mean(directory.name, siblings)
    return f"Waiting for {directory.absolute()}, which doesn't exist yet{meant}: start the run."


def _state(directory: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file that a page is made from."""
    found = []
    for path in [*(directory / name for name in FILES), *sorted((directory / "eval").glob("*"))]:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, status.st_size, status.st_mtime_ns))
    return found


def _version(page: str, status: int = 200) -> LiveVersion:
    """A page with the script that reloads it, and its policy, which allows the script.

    A policy in the page could only be narrowed by one in the header, so the page's own moves there.
    """
    (policy,) = POLICY.findall(page)
    script = static_text("refresh.js")
    etag = f'"{hashlib.sha256(page.encode()).hexdigest()[:32]}"'
    tag = f"<script data-version='{etag}'>{script}</script>"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = _extended(html.unescape(policy), {"script-src": f"'sha256-{digest}'", "connect-src": "'self'"})
    return LiveVersion(POLICY.sub(lambda _: tag, page).encode(), allowed, etag, status)


def _extended(policy: str, sources: dict[str, str]) -> str:
    """A content security policy that allows more sources, and that no page may embed."""
    directives = {name: values for name, *values in map(str.split, policy.split(";")) if name}
    for name, source in sources.items():
        directives[name] = [value for value in directives.get(name, []) if value != "'none'"] + [source]
    directives["frame-ancestors"] = ["'none'"]
    return "; ".join(" ".join([name, *values]) for name, values in directives.items())
