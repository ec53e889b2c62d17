"""A disk that is full or broken, a file system without locks: a message names the file, the outcome and the way on."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_key_safety import HISTORY, PRIVATE, first, pending, tree
from tests.conftest import NOW
from verifier.storage import atomic

__all__ = ["first", "pending"]  # fixtures

COMMANDS = {
    "rotate": ("rotate",),
    "cancel": ("cancel",),
    "prune": ("prune",),
    "import": ("import", "other.json"),
    "confirm": ("confirm", "--record", "ftp://x"),
}
ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]


def prepare(run, command: str) -> int:
    """Bring the directory into a state in which the command has something to do; return when to run it."""
    if command in ("cancel", "prune"):
        assert run("keys", "rotate").status == 0
    return NOW + 7200 if command == "prune" else NOW + 60


def fail_from(monkeypatch, number: int, error: int, last: int = 10**6) -> list[Path]:
    """Let the changes from this one to the last one fail: names that are replaced, files that are removed."""
    calls: list[Path] = []
    for name in ("publish", "remove"):
        function = getattr(atomic, name)

        def failing(path: Path, function=function) -> None:
            calls.append(path)
            if number <= len(calls) <= last:
                raise OSError(error, os.strerror(error), str(path))
            function(path)

        monkeypatch.setattr(atomic, name, failing)
    return calls


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_fails_once_is_undone_and_says_so(run, first, monkeypatch, command, error):
    now = prepare(run, command)
    before, number = tree(), 1
    while True:
        with monkeypatch.context() as patch:
            calls = fail_from(patch, number, error, number)
            done = run("keys", *COMMANDS[command], now=now)
        if len(calls) < number:
            break
        assert done.status == 3, done
        text, _, hint = done.err.partition("\nverifier: hint: ")
        assert text.startswith(f"verifier: error: {calls[number - 1]}: cannot be written ({os.strerror(error)}); ")
        outcome = text.rpartition("; ")[2]
        if outcome == "nothing was changed":
            assert tree() == before
            assert hint == "remove the cause, then run the command again\n"
        else:  # the last step: what is complete is reported as that
            assert re.fullmatch(rf"finished the {command} of .* UTC, which was interrupted", outcome)
            break
        number += 1
    assert number > 1
    assert not (PRIVATE / ".commit.json").exists()


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("command", ["rotate", "cancel"])
def test_while_the_disk_stays_full_the_change_is_recorded_and_the_hints_work(
    run, first, monkeypatch, command, error, undo
):
    now = prepare(run, command)
    before = tree()
    with monkeypatch.context() as patch:
        calls = fail_from(patch, 3, error)
        done = run("keys", *COMMANDS[command], now=now)
        assert done.status == 3
        text, hint = done.err.removesuffix("\n").split("\nverifier: hint: ")
        assert text == (
            f"verifier: error: {calls[2]}: cannot be written ({os.strerror(error)}); "
            f"the {command} is recorded in {PRIVATE}/.commit.json and is not complete"
        )
        assert hint.startswith(f"remove the cause, then run verifier keys recover: it finishes the {command} until ")
        assert hint.endswith("; to undo it now: verifier keys recover --undo")
        again = run("keys", "recover", now=now)  # the disk is full still
        assert (again.status, again.out) == (3, "")
        assert f"the {command} is recorded in {PRIVATE}/.commit.json and is not complete" in again.err
    recovered = run("keys", "recover", *(["--undo"] if undo else []), now=now)
    assert recovered.status == 0
    assert recovered.out.startswith("abandoned the " if undo else "finished the ")
    if undo:
        assert tree() == before
    assert run("keys", "audit", now=now).status == 0


@pytest.mark.parametrize("command", [*COMMANDS, "revoke", "generate", "recover", "merge"])
def test_a_file_system_without_locks_is_named_by_every_command(run, first, monkeypatch, command):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = tree()
    words = COMMANDS.get(command, (command,))
    if command == "revoke":
        words = ("revoke", "--kid", first, "--reason", "x", "--replace")
    done = run("keys", *words)
    assert (done.status, done.out, tree()) == (3, "", before)
    assert done.err == (
        f"verifier: error: {PRIVATE}/.lock: cannot be locked ({os.strerror(errno.ENOLCK)}); nothing was changed\n"
        "verifier: hint: keep the folder on a file system with locks (flock)\n"
    )


def test_a_disk_that_cannot_be_synchronized_is_named(run, first, monkeypatch):
    before = tree()
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        done = run("keys", "rotate")
    assert done.status == 3
    assert done.err.startswith(f"verifier: error: {PRIVATE}: cannot be written ({os.strerror(errno.EIO)}); ")
    assert run("keys", "recover", "--undo").status == 0
    assert tree() == before
    assert HISTORY.exists()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_change_whose_output_cannot_be_written_says_that_it_was_made(tmp_path, options):
    command = [sys.executable, "-m", "verifier", "keys", "generate", *options]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        3,
        "verifier: error: standard output: cannot be written (No space left on device); the change was made\n"
        f"verifier: hint: {sys.executable} -m verifier keys list shows it\n",
    )
    assert len(list((tmp_path / "keys" / "public").iterdir())) == 1


@pytest.mark.parametrize("command", [("applications", "add", "game"), ("keys", "import", "-")])
def test_a_closed_standard_input_is_empty(tmp_path, command):
    line = [sys.executable, "-m", "verifier", *command]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 3)
    assert re.fullmatch(
        r"verifier: error: .*(secret|standard input) is empty.*\n(verifier: hint: .*\n)?", done.stderr
    ), done.stderr


def test_a_reader_that_has_gone_ends_the_command_in_silence(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "verifier", "keys", "generate"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(list((tmp_path / "keys" / "public").iterdir())) == 1
