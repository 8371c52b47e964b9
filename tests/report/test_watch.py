"""`lambda-grpo report --watch`: the program in a process of its own, raw requests over real sockets, a real browser."""

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from unittest.mock import Mock

import pytest

from lambda_grpo.cli import main
from lambda_grpo.files import write_json
from lambda_grpo.report import live_page
from lambda_grpo.report.live_page import LivePage
from tests.cli.test_interrupts import heeds_interrupts
from tests.report.test_run_page import held_out, make_run
from tests.report.test_study_page import make_results

SECRET = "only for the owner of this machine"
# The program, which doesn't pause between two renderings
HASTY = """
import sys
from lambda_grpo.cli import main
from lambda_grpo.report import live_page
live_page.REST = 0
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def watching(directory, program=("-m", "lambda_grpo.cli")):
    """Run the program; yields its URL. Ends it with Ctrl-C, and checks that it ends as it should."""
    command = [sys.executable, *program, "report", "--watch", directory, "--port", "0"]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeds_interrupts
    )
    try:
        line = program.stdout.readline()
        found = re.fullmatch(r"Page: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert found, line + program.stderr.read()
        yield found[1]
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=60)[1]
        assert program.returncode == 130
        assert said.splitlines()[-1] == "lambda-grpo: stopped"
        assert "Traceback" not in said
    finally:
        program.kill()
        program.communicate()


def port_of(url):
    return int(url.rstrip("/").rpartition(":")[2])


def exchange(url, request):
    """What the server sends for these bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=60) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")


def get(url, path="/", *headers, method="GET"):
    """(status, headers by lower-case name, body) of a request as a browser sends it."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port_of(url)}", *headers, "", ""]
    head, _, body = exchange(url, "\r\n".join(lines).encode("latin-1")).partition("\r\n\r\n")
    status, *rest = head.split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in rest)}, body


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    (folder / "secret.txt").write_text(SECRET)
    run = make_run(folder / "run")
    (run.path / "eval" / "link").symlink_to(folder)
    (run.path / "own.txt").write_text(SECRET)
    return run


@pytest.fixture(scope="module")
def url(run):
    with watching(run.path) as url:
        yield url


def test_the_page_is_served_from_memory(run, url):
    before = sorted(run.path.rglob("*"))
    status, headers, body = get(url)
    assert status == 200
    assert "<title>lambda_grpo" in body
    assert int(headers["content-length"]) == len(body)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not any(name.startswith("access-control") for name in headers)
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"('sha256-[^' ]+' ?)+", policy["script-src"])

    status, alone, body = get(url, "/", method="HEAD")
    assert (status, {**alone, "date": headers["date"]}, body) == (200, headers, "")
    status, unchanged, body = get(url, "/", f'If-None-Match: "other", {headers["etag"]}')
    assert (status, unchanged["etag"], body) == (304, headers["etag"], "")
    assert get(url, "/", 'If-None-Match: "other"')[0] == 200
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    [
        "/run.json", "/own.txt", "/report.html", "/eval/link/secret.txt", "/favicon.ico", "/index.html", "/?x",
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/.%00./secret.txt", "/\x00", "/..\\secret.txt",
        "//secret.txt", "/etc/passwd", "//etc/passwd", "file:///etc/passwd", "http://127.0.0.1/own.txt", "secret.txt",
        "*", "..", "\\", "/%", "/\xff",
    ],
)  # fmt: skip
def test_nothing_but_the_page_is_served(url, path):
    status, headers, body = get(url, path)
    assert status in (400, 404)
    assert headers["x-content-type-options"] == "nosniff"
    assert len(body) < 100
    assert SECRET not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND", "get"])
def test_other_methods_are_refused(url, method):
    status, headers, body = get(url, "/", "Origin: http://evil.example", method=method)
    assert status == 405
    assert not any(name.startswith("access-control") for name in headers)
    assert body == "405 Method Not Allowed\n"


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["127.0.0.1:PORT"], 200), (["localhost:PORT"], 200), (["LOCALHOST:PORT"], 200),
        (["evil.example:PORT"], 403), (["evil.example"], 403), (["127.0.0.1"], 403), (["localhost:1"], 403),
        (["127.0.0.1:PORT.evil.example"], 403), (["127.0.0.1:PORT@evil.example"], 403), (["0.0.0.0:PORT"], 403),
        (["[::1]:PORT"], 403), ([""], 403), ([], 400), (["127.0.0.1:PORT", "evil.example"], 400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_only_this_machines_names_are_answered(url, hosts, expected, version):
    lines = [f"GET / {version}", *(f"Host: {host.replace('PORT', str(port_of(url)))}" for host in hosts), "", ""]
    answer = exchange(url, "\r\n".join(lines).encode())
    assert int(answer.split()[1]) == expected
    assert ("<title>" in answer) == (expected == 200)


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET /" + b"x" * 65532, 414),  # as many bytes as the server reads: more would reset the connection
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 65534, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 101, 431),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # a browser that tries TLS
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_broken_requests_are_answered(url, request_bytes, expected):
    answer = exchange(url, request_bytes)
    assert f" {expected} " in answer.split("\r\n")[0] or answer.startswith(str(expected))  # HTTP/0.9 has no status line
    assert get(url)[0] == 200


def test_a_slow_client_keeps_nobody_waiting(url):
    with (
        socket.create_connection(("127.0.0.1", port_of(url))) as silent,
        socket.create_connection(("127.0.0.1", port_of(url))) as halfway,
    ):
        halfway.sendall(b"GET / HT")
        started = time.monotonic()
        assert get(url)[0] == 200
        assert time.monotonic() - started < 3
        silent.settimeout(20)
        assert silent.recv(1) == b""  # closed by the server
        assert 4 < time.monotonic() - started < 15


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no 127.0.0.2")
def test_only_this_machine_can_connect(url):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port_of(url)))


def test_a_run_that_is_still_to_begin(tmp_path):
    (tmp_path / "runs").mkdir()
    with watching(tmp_path / "runs" / "mine") as url:
        status, headers, body = get(url)
        assert status == 200
        assert f"Waiting for {tmp_path}/runs/mine, which doesn&#39;t exist yet" in body
        run = make_run(tmp_path / "runs" / "mine", steps=1)
        deadline = time.monotonic() + 60  # at most a tenth of the time goes into making pages
        while "<h1>lambda_grpo on arithmetic</h1>" not in get(url, "/", f"If-None-Match: {headers['etag']}")[2]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert not (run.path / "report.html").exists()


def test_a_study_that_is_still_running(tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "REST", 0)
    (tmp_path / "study.json").write_text("{}")
    page = LivePage(tmp_path)
    assert b"results.json: the study writes it" in page.current().html
    write_json(tmp_path / "results.json", make_results(seeds=2, tasks=("arithmetic",)))
    assert b"4 objectives on arithmetic" in page.current().html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "study.json"]


def test_a_page_is_made_when_files_have_changed_in_a_tenth_of_the_time(tmp_path, monkeypatch):
    def render_page(directory):
        clock.monotonic.return_value += 3.0  # seconds
        return real_render(directory)

    clock, real_render = Mock(), live_page.render_page
    clock.monotonic.return_value = 100.0
    rendering = Mock(side_effect=render_page)
    monkeypatch.setattr(live_page, "time", clock)
    monkeypatch.setattr(live_page, "render_page", rendering)
    run = make_run(tmp_path / "run")
    page = LivePage(run.path)
    first = page.current()
    clock.monotonic.return_value = 1000.0
    assert page.current() is first
    assert rendering.call_count == 1  # nothing has changed

    (run.path / "eval" / "after.json").touch()
    assert page.current().etag == first.etag  # changed, but not in what the page shows: it needn't be loaded again
    assert rendering.call_count == 2
    run.log_metrics({**run.metrics()[-1], "step": 4})
    clock.monotonic.return_value += 26.9
    assert page.current().etag == first.etag
    clock.monotonic.return_value += 0.2
    assert page.current().etag != first.etag
    assert rendering.call_count == 3
    run.log_evaluation_during(held_out(2, 0.7))
    clock.monotonic.return_value += 100.0
    assert b'"x": [0.0, 2.0, 3.0], "y": [50.0, 70.0, 90.0]' in page.current().html


def test_files_that_cant_be_read_are_said_and_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live_page, "REST", 0)
    run = make_run(tmp_path / "run")
    whole = (run.path / "run.json").read_text()
    page = LivePage(run.path)
    (run.path / "run.json").write_text("{")
    assert page.current().status == 500
    assert b"can&#39;t be made: JSONDecodeError" in page.current().html
    assert capsys.readouterr().err.count("Traceback") == 1  # once, not at each request
    (run.path / "run.json").write_text(whole)
    assert page.current().status == 200


def test_what_cant_be_watched_is_refused(tmp_path, capsys, url):
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    for arguments, message in (
        ([tmp_path / "file"], "is a file: give the output_dir"),
        ([tmp_path / "other"], "is not a run directory: it has no run.json"),
        ([tmp_path, tmp_path], "--watch shows one run or study"),
        ([tmp_path / "new", "--port", "80"], "--port must be 0 or from 1024 to 65535, got 80"),
        ([tmp_path / "new", "--port", port_of(url)], "can't be used (Address already in use): choose another --port"),
    ):
        assert main(["report", "--watch", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["report", str(tmp_path), "--port", "0"]) == 2
    assert "--port needs --watch" in capsys.readouterr().err


def test_a_misspelt_path_is_said_while_it_waits(tmp_path):
    make_run(tmp_path / "my-run")
    assert live_page.what_is_missing(tmp_path / "my-run") is None
    assert '(did you mean "my-run"?)' in live_page.what_is_missing(tmp_path / "my_rnu")


@pytest.mark.browser
def test_a_browser_shows_what_is_new_and_keeps_the_readers_place(browser, tmp_path):
    def log_step(step):
        run.log_metrics({**run.metrics()[-1], "step": step})

    def shows(step):
        return page.get_by_text(f"{step} steps").first

    def wait_for_place():
        page.wait_for_function("place => scrollY === place", arg=place, timeout=60_000)
        page.wait_for_timeout(500)
        assert page.evaluate("scrollY") == place  # and nothing scrolls on from there
        assert page.url == f"{url}#group=1&sample=2"
        assert page.get_by_role("heading", name="Step 2, group 1").is_visible()
        assert page.get_by_label("from … tokens").input_value() == "3"
        assert page.get_by_label("order").input_value() == "step"

    run = make_run(tmp_path / "run")
    page = browser.new_page(viewport={"width": 1000, "height": 500})
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    note = page.get_by_role("button", name="New data: reload")
    with watching(run.path, ["-c", HASTY]) as url:
        page.goto(f"{url}#group=1&sample=2")
        shows(3).wait_for()
        page.get_by_label("order").select_option("step")
        page.get_by_label("from … tokens").fill("3")
        page.wait_for_timeout(1000)  # the page scrolls to the group, smoothly
        place = page.evaluate("scrollTo({ top: 300, behavior: 'instant' }); document.activeElement.blur(); scrollY")
        assert place == 300
        log_step(4)
        shows(4).wait_for(timeout=60_000)
        wait_for_place()

        # not while the reader has text selected
        page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
        log_step(5)
        note.wait_for(timeout=60_000)
        page.wait_for_timeout(2500)
        assert shows(4).is_visible()
        page.evaluate("getSelection().removeAllRanges()")
        shows(5).wait_for(timeout=60_000)

        # not while a hand is on the mouse, which goes on until the note is there
        log_step(6)
        for i in range(600):
            page.mouse.move(300 + i % 40, 200)
            page.wait_for_timeout(100)
            if i >= 35 and note.is_visible():
                break
        assert shows(5).is_visible()
        note.click()
        shows(6).wait_for(timeout=60_000)
        wait_for_place()
        assert problems == []
    page.get_by_text("No longer refreshed").wait_for(timeout=60_000)
    page.close()
