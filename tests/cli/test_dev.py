"""The command `verifier dev`: six lines that can be pasted, and no log before them."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from verifier.cli import dev, program
from verifier.conformance import Cause, NoResponseError
from verifier.errors import ConfigError
from verifier.storage.snapshot import MAX_SECRET_BYTES

PROGRAM = Path(sys.executable).with_name("verifier")
TIMEOUT_S = 30


@contextlib.contextmanager
def started(folder: Path, *arguments: object, program: str | Path = PROGRAM) -> "Iterator[subprocess.Popen[str]]":
    """`verifier dev` in a folder; it and its server end with the block, whatever happens."""
    process = subprocess.Popen(
        [str(program), "dev", *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def once(folder: Path, *arguments: object, **options: str | Path) -> tuple[int | None, str, str]:
    with started(folder, "--once", "--port", free_port(), *arguments, **options) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err


def pasted(command: str, folder: Path = Path("/")) -> "subprocess.CompletedProcess[str]":
    """A printed command, as another shell runs it: in another folder, without the variables and PATH of this one."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, text=True, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("program", ["verifier", PROGRAM], ids=["from PATH", "by its path"])
def test_dev_prints_six_lines_and_every_command_can_be_pasted_anywhere(tmp_path, monkeypatch, program):
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:/usr/bin:/bin")
    port = free_port()
    with started(tmp_path, "--port", port, program=program) as process:
        lines = dict(process.stdout.readline().rstrip("\n").split(maxsplit=1) for _ in range(6))
        assert list(lines) == ["serving", "request", "response", "token", "next", "stop"]
        assert lines["serving"] == f"http://127.0.0.1:{port}/profile"
        profile = '{"_id":"player-42","email":"ann@example.com","username":"ann"}'
        assert lines["response"] == f"200 {profile}"
        assert lines["stop"] == "Ctrl-C"
        again = pasted(lines["request"])
        assert (again.returncode, again.stdout, again.stderr) == (0, profile, "")
        token = json.loads(shlex.split(lines["request"])[-1])["code"]
        assert sum(token in line for line in lines.values()) == 1
        fresh = pasted(lines["token"])
        assert (fresh.returncode, fresh.stderr) == (0, "")
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", fresh.stdout)
        check = pasted(f"{lines['next']} --only profile-full")
        assert (check.returncode, check.stderr) == (0, "")
        assert check.stdout.startswith("must    1 pass, 0 fail, 0 skipped\n")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, rest) == (0, ("", ""))


def test_dev_once_stops_after_the_response_and_keeps_the_key(tmp_path):
    status, out, err = once(tmp_path)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["serving", "request", "response", "token", "next"]
    assert re.match(r'request   POST http://127.0.0.1:\d+/profile {"code": "', out.splitlines()[1])  # not a command
    assert out.splitlines()[-1] == f"next      {PROGRAM} dev --folder .verifier-dev"
    kids = list((tmp_path / ".verifier-dev/keys/public").iterdir())
    assert once(tmp_path)[0] == 0
    assert list((tmp_path / ".verifier-dev/keys/public").iterdir()) == kids


def test_dev_verbose_shows_the_log_of_the_server(tmp_path):
    status, out, err = once(tmp_path, "--verbose")
    assert (status, len(out.splitlines())) == (0, 5)
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert {"start", "request", "stop"} <= set(events)
    assert f"Listening on {out.split()[1]}" in events


def test_dev_quotes_the_path_of_a_program_in_a_folder_with_a_space(tmp_path):
    folder = tmp_path / "my game"
    folder.mkdir()
    copy = folder / "verifier"
    shutil.copy(PROGRAM, copy)
    _, out, _ = once(tmp_path, program=copy)
    fresh = next(line for line in out.splitlines() if line.startswith("token"))
    assert f"'{copy}' token player-42" in fresh
    assert pasted(fresh.split(maxsplit=1)[1], tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("started_with", "original", "expected", "elsewhere"),
    [
        ("/usr/lib/verifier/__main__.py", "python3", "python3 -m verifier", f"{sys.executable} -m verifier"),
        (str(PROGRAM), str(PROGRAM), "verifier", str(PROGRAM)),
        (".venv/bin/verifier", "", ".venv/bin/verifier", "{folder}/.venv/bin/verifier"),
        ("./my verifier", "", "'./my verifier'", "'{folder}/my verifier'"),
    ],
    ids=["a module", "from PATH", "by its path", "with a space"],
)
def test_a_command_is_printed_with_the_program_it_was_started_with(
    monkeypatch, tmp_path, started_with, original, expected, elsewhere
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(PROGRAM.parent))
    monkeypatch.setattr(sys, "argv", [started_with])
    monkeypatch.setattr(sys, "orig_argv", [original])
    assert program.command("dev") == f"{expected} dev"
    assert program.command("dev", elsewhere=True) == f"{elsewhere.format(folder=tmp_path)} dev"
    # A hint is pasted into the same shell; what names no command stays as it is.
    text = "stop the verifier, then run verifier keys list: see verifier --help, not another verifier process"
    completed = f"stop the verifier, then run {expected} keys list: see {expected} --help, not another verifier process"
    assert program.with_files(text, {}) == completed
    assert program.with_files(completed, {}) == completed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_takes_the_next_free_port_and_serves_until_it_is_stopped(tmp_path, number):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(tmp_path, "--port", port) as process:
            first = process.stdout.readline()
            assert re.fullmatch(rf"serving   http://127\.0\.0\.1:\d+/profile \(port {port} is in use\)\n", first)
            for _ in range(5):
                process.stdout.readline()
            assert process.poll() is None
            process.send_signal(number)
            process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0


def test_dev_reports_that_no_port_is_free(monkeypatch):
    tried = []

    def listen(_, port):
        tried.append(port)
        raise ConfigError("taken")

    monkeypatch.setattr("verifier.server.run.listen", listen)
    with pytest.raises(ConfigError, match=r"(?m)^ports 8000 to 8099 are all in use$"):
        dev._free_port(8000)
    assert tried == list(range(8000, 8100))


@pytest.mark.parametrize("options", [(), ("--verbose",)], ids=["quiet", "verbose"])
def test_dev_shows_the_log_of_a_server_that_does_not_start(tmp_path, options):
    (tmp_path / ".verifier-dev").mkdir()
    (tmp_path / ".verifier-dev" / "secret").write_text("s" * (MAX_SECRET_BYTES + 1))
    status, out, err = once(tmp_path, *options)
    assert (status, out) == (3, "")
    assert f"verifier: error: .verifier-dev/secret: cannot be read (is larger than {MAX_SECRET_BYTES} bytes)" in err
    assert err.endswith("verifier: error: the server did not start\nverifier: hint: its log is above\n")


def test_dev_shows_the_log_of_a_server_that_ends(tmp_path):
    with started(tmp_path, "--port", free_port()) as process:
        for _ in range(6):
            process.stdout.readline()
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], text=True, capture_output=True)
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 3
    assert '"event":"request"' in err
    assert err.endswith("verifier: error: the server ended\nverifier: hint: its log is above\n")


def test_dev_reports_a_sample_request_without_a_response(run, tmp_path, monkeypatch):
    def send(*_, **__):
        raise NoResponseError(Cause("the connection was closed", "look at the log"))

    monkeypatch.setattr(dev, "send", send)
    monkeypatch.setattr(dev.signal, "signal", lambda *_: None)  # because this process keeps its handlers
    done = run("dev", "--once", "--port", free_port())
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith("verifier: error: the connection was closed\nverifier: hint: look at the log\n")
