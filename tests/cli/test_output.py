"""What commands show on a terminal beside their output: progress, and what to do next."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import free_port
from tests.support.terminal import run_in_terminal
from verifier._version import __version__
from verifier.cli import output
from verifier.storage.key_directory import KeyDirectory


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    subprocess.run([sys.executable, "-m", "verifier", "keys", "generate", "--keys", folder], check=True)
    return folder


@pytest.fixture
def replica(keys):
    """A replica with exactly these keys."""
    ring = KeyDirectory(keys / "public").load()
    settings = {"max_lifetime_s": 300, "leeway_s": 30}
    jwks = {"keys": [{"kid": kid} for kid in ring.keys], "key_set_digest": ring.digest}
    bodies = {
        "/readyz": {"status": "ready", "settings": settings, "version": __version__},
        "/.well-known/jwks.json": jwks,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(bodies[self.path]).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def shown(*arguments, keys):
    """Standard output, and what the terminal shows beside it."""
    environment = {"VERIFIER_KEYS": str(keys)}
    with run_in_terminal(*map(str, arguments), environment=environment, stdout=subprocess.PIPE) as terminal:
        text = terminal.read_until()
        out, _ = terminal.process.communicate(timeout=30)
    return out.decode(), text


def test_a_confirmation_ends_with_the_next_step(keys, replica):
    out, text = shown("keys", "confirm", replica, keys=keys)
    assert out == f"pass  {replica}  the same keys\n"
    assert f"\r  1 of 1  {replica}" in text
    assert text.endswith("\rnext    run this with --record to keep the result in the history\r\n")
    _, text = shown("keys", "confirm", replica, "--record", keys=keys)
    assert text.endswith(f"next    commit {keys}/history.jsonl, which now has the result\r\n")


def test_a_confirmation_that_fails_says_what_to_do(keys, replica):
    down = f"http://127.0.0.1:{free_port()}"
    out, text = shown("keys", "confirm", down, replica, keys=keys)
    assert out.startswith(f"FAIL  {down}")
    assert "\r  2 of 2" in text
    assert text.endswith("correct what else is named, and run this again\r\n")


def test_an_audit_ends_with_the_anchor_for_the_next_one(keys, replica):
    out, text = shown("keys", "audit", "--replica", replica, keys=keys)
    anchor = out.split()[1]
    assert "\r  1 of 1" in text
    assert text.endswith(f"next    keep the anchor for the next audit: --since {anchor}\r\n")


def test_an_audit_with_findings_says_what_to_do(keys):
    _, text = shown("keys", "audit", "--max-lifetime", 301, keys=keys)
    assert text == "next    apply the remediation below each finding, and run this again\r\n"


def test_a_report_ends_with_the_file_to_open(keys, replica, tmp_path):
    page = tmp_path / "report.html"
    _, text = shown("keys", "report", "--html", page, "--replica", replica, keys=keys)
    assert text.endswith(f"\rnext    open {page} in a browser\r\n")
    _, text = shown("keys", "report", "--html", page, "--max-lifetime", 301, keys=keys)
    assert text == f"next    open {page} in a browser; its findings are at the top\r\n"


def test_a_server_in_a_terminal_says_how_to_test_it(keys, tmp_path):
    environment = {"VERIFIER_ISSUER": "https://game.example", "VERIFIER_KEYS": str(keys), "VERIFIER_PORT": "0"}
    environment |= {"VERIFIER_APPLICATION_ID": "app", "VERIFIER_SECRET_KEY": "a secret of an application"}
    with run_in_terminal("serve", environment=environment) as terminal:
        text = terminal.read_until("Listening on http://127.0.0.1:")
        terminal.process.terminate()
        terminal.read_until()
        assert terminal.process.wait(timeout=30) == 0
    command = f"{sys.executable} -m verifier check --help"
    assert text.startswith(f"next    test it from another terminal ({command}); Ctrl-C stops it\r\n")


def test_elsewhere_nothing_is_shown_beside_the_output(keys, replica):
    command = [sys.executable, "-m", "verifier", "keys", "confirm", replica, "--keys", keys]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_progress_line_is_one_line_without_control_characters(monkeypatch, capsys):
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True)
    assert list(output.show_progress([f"\x1b[31m{'x' * 100}"], 10)) == [f"\x1b[31m{'x' * 100}"]
    shown = capsys.readouterr().err
    assert shown == f"\r{('  1 of 10  ' + chr(92) + 'x1b[31m' + 'x' * 100)[:48]}\r{'':48}\r"
