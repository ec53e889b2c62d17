"""What is no file, in the place of any file: a revocation goes through, or says what to remove, and then does."""

import errno
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_key_safety import NOW, states, tree
from tests.cli.test_key_safety import first as first  # a fixture
from verifier.storage import snapshot


def make_folder(path: Path) -> None:
    (path / "a").mkdir(parents=True)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.symlink_to(target)

    return make


KINDS: dict[str, Callable[[Path], object]] = {
    "a link to nothing": link("/absent/file"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": link("/"),
    "a link to a device": link("/dev/zero"),
    "a folder": make_folder,
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "an empty file": Path.touch,
    "zeros": lambda path: path.write_bytes(b"\0" * 99),
}
PLACES = (
    "keys/history.jsonl",
    "keys/.history.jsonl.tmp",
    "keys/private",
    "keys/private/.commit.json",
    "keys/private/..commit.json.tmp",
    "keys/private/.gitignore",
    "keys/private/.lock",
    "keys/private/{kid}.pem",
    "keys/private/.{kid}.pem.tmp",
    "keys/public/.{kid}.json.tmp",
    "keys/public/other.json",
)


def put(path: Path, kind: str) -> None:
    """Replace what is there, if anything, by something of this kind."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    KINDS[kind](path)


def remove(text: str) -> None:
    """Do what a hint says: remove what it names."""
    named = re.search(r"remove (\S+?)(?:,|$)", text, re.MULTILINE) or re.search(r"and (\S+) must be folders", text)
    assert named, text
    path = Path(named[1])
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_revocation_proceeds_or_says_what_to_remove(run, first, place, kind):
    put(Path(place.format(kid=first)), kind)
    revoke = ("keys", "revoke", "--kid", first, "--reason", "leaked", "--replace")
    done = run(*revoke)
    if done.status:
        assert (done.status, done.out) == (3, "")
        assert "nothing was changed" in done.err
        assert states()[first] == "current"
        remove(done.err)
        done = run(*revoke)
    assert done.status == 0, done.err
    assert sorted(states().values()) == ["current", "revoked"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["keys/private/.commit.json", "keys/private/{kid}.pem", "keys/private/.gitignore"])
@pytest.mark.parametrize("command", ["rotate", "prune", "recover"])
def test_another_command_proceeds_or_says_what_to_remove(run, first, command, place, kind):
    assert run("keys", "revoke", "--kid", first, "--reason", "leaked", "--replace").status == 0
    put(Path(place.format(kid=first)), kind)
    done = run("keys", command, now=NOW + 60)
    if done.status:
        assert (done.status, done.out) == (1, "")
        remove(done.err)
        done = run("keys", command, now=NOW + 60)
    assert done.status == 0, done.err


@pytest.mark.parametrize("kind", ["a link to nothing", "a link to itself"])
def test_git_ignores_the_private_keys_also_where_a_link_was(run, first, kind):
    put(Path("keys/private/.gitignore"), kind)
    assert run("keys", "rotate").status == 0
    assert Path("keys/private/.gitignore").read_text().endswith("\n*\n")
    assert not Path("keys/private/.gitignore").is_symlink()


def test_a_revocation_sets_every_journal_aside_that_is_no_file(run, first):
    for number in range(2):
        put(Path("keys/private/.commit.json"), "a folder")
        kid = next(kid for kid, state in states().items() if state == "current")
        done = run("keys", "revoke", "--kid", kid, "--reason", "leaked", "--replace", now=NOW + number)
        assert done.status == 0, done.err


@pytest.mark.parametrize("kind", ["a link to nothing", "a pipe", "an empty file"])
def test_a_folder_of_public_keys_that_is_none_is_named(run, first, kind):
    put(Path("keys/public"), kind)
    done = run("keys", "revoke", "--kid", first, "--reason", "leaked")
    assert (done.status, done.err) == (
        3,
        "verifier: error: keys/public: no such folder\n"
        "verifier: hint: keys/public must be a folder, or a link to a folder\n",
    )


def test_the_volume_of_an_applications_file_that_is_not_mounted_is_not_created(run, tmp_path):
    Path("applications.json").symlink_to(tmp_path / "absent" / "applications.json")
    for command, hint in (("add", "mount it, or correct the link"), ("rotate-secret", "mount what its link leads to")):
        done = run("applications", command, "game", stdin="a-secret-of-the-dashboard")
        assert (done.status, done.err.partition("verifier: hint: ")[2]) == (3, f"{hint}\n")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", ["a folder", "a socket", "a link to nothing"])
def test_what_is_in_the_place_of_the_lock_of_an_applications_file_is_named(run, kind):
    put(Path(".applications.json.lock"), kind)
    add = ("applications", "add", "game")
    done = run(*add, stdin="a-secret-of-the-dashboard")
    assert done.status == 3
    remove(done.err)
    assert run(*add, stdin="a-secret-of-the-dashboard").status == 0


@pytest.mark.parametrize("command", ["rotate", "prune", "merge", "revoke"])
def test_no_key_is_taken_for_missing_in_a_folder_that_cannot_be_read(run, first, monkeypatch, command):
    def denied(folder):
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    words = (command, "--kid", first, "--reason", "leaked", "--replace") if command == "revoke" else (command,)
    before = tree()
    monkeypatch.setattr(snapshot.os, "listdir", denied)
    done = run("keys", *words)
    assert (done.status, done.out, tree()) == (3, "", before)
    assert done.err == (
        "verifier: error: keys/public: cannot be read (Permission denied); nothing was changed\n"
        "verifier: hint: remove the cause, so that this account can read keys/public\n"
    )
    listed = run("keys", "list")
    assert (listed.status, listed.err) == (1, "verifier: error: keys/public: cannot be read (Permission denied)\n")
