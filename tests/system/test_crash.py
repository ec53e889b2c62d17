"""Every command is all or nothing: killed at each thing it does to a file, and run beside others of its kind."""

import io
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from tests.conftest import APPLICATION_ID, ISSUER, NOW, SECRET
from tests.support import forge
from verifier.cli import main
from verifier.core import rules, tokens
from verifier.core.applications import parse
from verifier.core.keyring import Keyring
from verifier.errors import InvalidToken, UnsafeOperationError
from verifier.rotation import audit, history
from verifier.rotation.plan import OverlapPolicy
from verifier.signing import keystore
from verifier.signing.keystore import Keystore
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory

# The suite leaves no thread running that a fork could lose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

DAY = 86_400
Command = tuple[str, ...]


@pytest.fixture(scope="module")
def pool() -> list[forge.Pair]:
    return [forge.Pair("ES256", keystore.generate("ES256")) for _ in range(6)]


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """A killed process loses nothing that the system has been given, so nothing waits for the disk here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name in [name for name in os.environ if name.startswith("VERIFIER_")]:
        monkeypatch.delenv(name)


def run(*arguments: object, stdin: str = "") -> int:
    """The exit status of a command in this process, without what it prints."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            sys.stdin, kept = io.TextIOWrapper(io.BytesIO(stdin.encode())), sys.stdin
            main.cli.main([str(argument) for argument in arguments], prog_name="verifier", standalone_mode=False)
        except (UnsafeOperationError, click.ClickException):
            return 1
        finally:
            sys.stdin = kept
    return 0


def fork(function: Callable[[], int]) -> int:
    """The process id of a child that ends with the status that the function gives."""
    child = os.fork()
    if child == 0:  # pragma: no cover - never returns
        status = 99
        try:
            status = function()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """The exit status of a child; minus the signal when one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def kill_at(number: int, below: Path) -> None:  # pragma: no cover - in a child
    """End this process right before the n-th change of a file, or in the middle of it when that is a write."""
    left = number

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & WRITES)
        if changes and str(arguments[0]).startswith(str(below)):
            step()

    class Torn(io.FileIO):
        def write(self, data: Any) -> int:
            half = len(data) // 2
            super().write(data[:half])
            step()
            return half + int(super().write(data[half:]) or 0)

    sys.addaudithook(hook)
    os.fsync = lambda descriptor: step()
    vars(atomic)["open"] = lambda descriptor, mode: Torn(descriptor, "w")


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file of a key directory; the lock and the .gitignore are no content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".gitignore")
    }


def served(folder: Path) -> KeyDirectory:
    directory = KeyDirectory(folder / "public")
    directory.refresh()
    return directory


def issued_tokens(pairs: list[forge.Pair], now: int) -> list[str]:
    """A token of each key."""
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 300}
    return [forge.token(pair, {"alg": "ES256", "kid": pair.kid, "typ": "at+jwt"}, claims) for pair in pairs]


def is_accepted(token: str, keyring: Keyring, now: int) -> bool:
    try:
        tokens.verify(token, rules.Policy(ISSUER, APPLICATION_ID, keyring, now))
    except InvalidToken:
        return False
    return True


def findings(folder: Path, now: int) -> set[str]:
    state = audit.Inventory.read(folder, now=now, window=OverlapPolicy(), applications=None, cryptoperiod_s=90 * DAY)
    return {finding.rule for finding in audit.findings(state)}


@dataclass(frozen=True)
class Case:
    """A command and what ran before it, each at its time; {0} is the first key's kid, {1} the second's."""

    now: int
    command: Command
    before: tuple[tuple[int, Command], ...] = ((NOW, ("generate",)),)
    revokes: str = ""  # the key that the command itself ends


ROTATED = ((NOW, ("generate",)), (NOW, ("rotate",)))
REASON = ("--reason", "lost")
CASES = {
    "generate": Case(NOW, ("generate",), ()),
    "rotate": Case(NOW + 9, ("rotate",)),
    "cancel": Case(NOW + 9, ("cancel",), ROTATED),
    "revoke": Case(NOW + 9, ("revoke", "--kid", "{0}", *REASON, "--force"), revokes="{0}"),
    "revoke-pending": Case(NOW + 9, ("revoke", "--kid", "{1}", *REASON), ROTATED, "{1}"),
    "revoke-replace": Case(NOW + 9, ("revoke", "--kid", "{0}", *REASON, "--replace"), revokes="{0}"),
    "revoke-replace-by-pending": Case(NOW + 9, ("revoke", "--kid", "{0}", *REASON, "--replace"), ROTATED, "{0}"),
    "prune-private": Case(NOW + 3700, ("prune",), ROTATED),
    "prune-both": Case(NOW + 500 * DAY, ("prune",), (*ROTATED, (NOW + 500 * DAY - 7200, ("rotate",)))),
    "import": Case(NOW, ("import", "{jwks}"), ()),
}


@pytest.fixture(params=CASES)
def case(request, pool, tmp_path, monkeypatch) -> Iterator[tuple[Case, Command]]:
    """A case with its folder `before` as it is before the command, and the command for another folder."""
    chosen = CASES[request.param]
    jwks = tmp_path / "keys.jwks"
    jwks.write_text(json.dumps({"keys": [pool[4].public, pool[5].public]}))

    def filled(command: Command, folder: Path) -> Command:
        words = [part.format(pool[0].kid, pool[1].kid, jwks=jwks) for part in command]
        return ("keys", *words, "--keys", str(folder))

    folder = tmp_path / "before"
    left = iter(pool)
    monkeypatch.setattr(keystore, "generate", lambda alg: next(left).key)
    for now, command in chosen.before:
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert run(*filled(command, folder)) == 0
    # From here on every run of the command makes the same key.
    following = next(left)
    monkeypatch.setattr(keystore, "generate", lambda alg: following.key)
    monkeypatch.setattr(time, "time", lambda: chosen.now)
    return chosen, filled


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, to)
    return to


def test_a_command_is_all_or_nothing_wherever_it_is_killed(case, pool, tmp_path):
    chosen, filled = case
    before, done, killed, twice = (tmp_path / name for name in ("before", "done", "killed", "twice"))
    assert run(*filled(chosen.command, copied(before, done))) == 0
    states = [content(before), content(done)]
    kept = [pair for pair in pool if pair.kid != chosen.revokes.format(pool[0].kid, pool[1].kid)]
    good = [
        token for token in issued_tokens(kept, chosen.now) if is_accepted(token, served(before).keyring, chosen.now)
    ]
    usable = bool(served(before).keyring.verification_keys(chosen.now, 30)) and chosen.command[-1] != "--force"

    def serves(folder: Path) -> None:
        """What a server reads of a directory, in whatever state, is good."""
        if (folder / "public").exists():
            directory = served(folder)
            assert directory.problems == ()
            assert all(is_accepted(token, directory.keyring, chosen.now) for token in good)
            assert not usable or directory.keyring.verification_keys(chosen.now, 30)

    def killed_everywhere(start: Path, command: Callable[[], object]) -> Iterator[int]:
        """How many steps a command on `killed` did before it was killed, for each number until it ends."""

        def begun(number: int) -> int:  # pragma: no cover - in a child
            kill_at(number, tmp_path)
            command()
            return 0

        for number in itertools.count(1):
            copied(start, killed)
            status = ended(fork(lambda number=number: begun(number)))
            serves(killed)
            if status == 0:
                return
            assert status == -signal.SIGKILL
            yield number - 1

    def recover() -> None:
        with Keystore(killed).transaction():
            pass

    outcomes = []
    for _ in killed_everywhere(before, lambda: run(*filled(chosen.command, killed))):
        if (killed / "private" / ".commit.json").exists() and not twice.exists():
            assert "interrupted" in findings(killed, chosen.now)
            copied(killed, twice)
        recover()
        outcomes.append(states.index(content(killed)))
    assert content(killed) == states[1]
    assert outcomes == sorted(outcomes)  # nothing until the change is written down, all of it from then on
    assert set(outcomes) == {0, 1}

    # The recovery is killed everywhere as well.
    for _ in killed_everywhere(twice, recover):
        recover()
        assert content(killed) == states[1]
    for folder in (before, done):
        if folder.exists():
            assert not findings(folder, chosen.now) & {
                "history-chain",
                "history-agrees",
                "history-transitions",
                "interrupted",
            }


ELAPSED = {"0s": 0, "10m": 600, "2h": 7200, "2d": 2 * DAY}
NEXT = {
    "rotate": ("rotate",),
    "cancel": ("cancel",),
    "revoke-replace": ("revoke", "--kid", "{0}", *REASON, "--replace"),
    "prune": ("prune",),
    "recover": ("recover",),
    "undo": ("recover", "--undo"),
}


def killed_states(start: Path, killed: Path, command: Callable[[], object], tmp_path: Path) -> list[Path]:
    """A copy of each different state in which a kill leaves a directory."""
    kept: dict[str, Path] = {}
    for number in itertools.count(1):
        copied(start, killed)

        def begun(number: int = number) -> int:  # pragma: no cover - in a child
            kill_at(number, tmp_path)
            command()
            return 0

        status = ended(fork(begun))
        state = repr(sorted(content(killed).items()))
        if state not in kept:
            kept[state] = copied(killed, tmp_path / f"state-{len(kept)}")
        if status == 0:
            break
    return list(kept.values())


def common_keys(folder: Path, deployed: Keyring, now: int) -> set[str]:
    """The keys that a signer here has, and that a replica accepts: one that reads this folder, and one deployed."""
    signable = {path.stem for path in folder.glob("private/*.pem")}
    for keyring in (served(folder).keyring, deployed):
        signable &= {key.kid for key in keyring.verification_keys(now, 30)}
    return signable


def test_whatever_command_comes_after_a_kill_and_however_late_no_key_is_lost(case, pool, tmp_path, monkeypatch):
    chosen, filled = case
    before, killed, later = (tmp_path / name for name in ("before", "killed", "later"))
    usable = bool(served(before).keyring.current(chosen.now)) and not chosen.revokes
    states = killed_states(before, killed, lambda: run(*filled(chosen.command, killed)), tmp_path)
    assert len(states) >= 4
    monkeypatch.setattr(keystore, "generate", lambda alg: pool[3].key)
    for (number, state), (elapsed, seconds), (name, command) in itertools.product(
        enumerate(states), ELAPSED.items(), NEXT.items()
    ):
        where, now = (number, elapsed, name), chosen.now + seconds
        monkeypatch.setattr(time, "time", lambda now=now: now)
        copied(state, later)
        if not (later / "public").exists():
            continue
        history_before = (later / "history.jsonl").read_bytes() if (later / "history.jsonl").exists() else b""
        run("keys", *(word.format(pool[0].kid, jwks=tmp_path / "keys.jwks") for word in command), "--keys", later)
        directory = served(later)
        assert not (later / "private" / ".commit.json").exists(), where
        assert [*later.rglob("*.tmp"), *directory.problems] == [], where
        if (state / "private" / ".commit.json").exists() and chosen.revokes:
            key = directory.keyring.find(chosen.revokes.format(pool[0].kid, pool[1].kid))
            assert key.revoked_at is not None, where
        if "revoke" not in name and usable:
            # What a command has recorded in the history is complete, and may have been deployed.
            complete = f'"command": "{chosen.command[0]}"'.encode() in history_before
            deployed = directory.keyring if complete else served(before).keyring
            assert common_keys(later, deployed, now), where
            assert directory.keyring.current(now), where
        if directory.keyring.keys:
            found = findings(later, now)
            assert not found & {"history-chain", "history-agrees", "interrupted", "overlap"}, (where, found)


def test_a_second_command_says_that_another_is_at_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atomic, "LOCK_ATTEMPTS", 3)
    assert run("keys", "generate", "--keys", tmp_path) == 0
    lock = tmp_path / "private" / ".lock"
    with atomic.locked(lock):
        monkeypatch.setattr(sys, "argv", ["verifier", "keys", "rotate", "--keys", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            main.main()
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"verifier: error: {lock}: another verifier process {os.getpid()} holds the lock; nothing was changed\n"
        "verifier: hint: try again when it has ended; a suspended process keeps the lock until it continues "
        f"or is ended (kill {os.getpid()})\n"
    )
    assert len(list((tmp_path / "public").iterdir())) == 1
    assert run("keys", "rotate", "--keys", tmp_path) == 0


def at_once(commands: list[Callable[[], int]]) -> list[int]:
    """The exit statuses of functions that each run in a process of their own, begun together."""
    reading, writing = os.pipe()

    def wait_and(function: Callable[[], int]) -> int:  # pragma: no cover - in a child
        os.close(writing)
        os.read(reading, 1)  # until the parent closes its end
        return function()

    children = [fork(lambda function=function: wait_and(function)) for function in commands]
    os.close(writing)
    os.close(reading)
    return [ended(child) for child in children]


def test_of_eight_rotations_at_once_exactly_one_succeeds(tmp_path):
    now = int(time.time())
    assert run("keys", "generate", "--keys", tmp_path) == 0
    for command, left in (("rotate", 2), ("cancel", 1)) * 3:
        statuses = at_once([lambda command=command: run("keys", command, "--keys", tmp_path)] * 8)
        assert sorted(statuses) == [0] + [1] * 7
        assert len(list((tmp_path / "public").iterdir())) == len(list((tmp_path / "private").glob("*.pem"))) == left
    log = history.load((tmp_path / "history.jsonl").read_bytes())
    assert log.problems == ()
    assert [event.command for event in log.events] == ["generate", *["rotate", "rotate", "cancel", "cancel"] * 3]
    assert findings(tmp_path, now) == set()


def test_rotations_and_cancellations_at_once_leave_one_unbroken_history(tmp_path):
    assert run("keys", "generate", "--keys", tmp_path) == 0
    commands = ["rotate", "cancel"] * 4
    statuses = at_once([lambda command=command: run("keys", command, "--keys", tmp_path) for command in commands])
    rotated = statuses[::2].count(0)
    cancelled = statuses[1::2].count(0)
    assert rotated - cancelled in (0, 1)
    assert set(statuses) <= {0, 1}
    log = history.load((tmp_path / "history.jsonl").read_bytes())
    assert (log.problems, len(log.events)) == ((), 1 + 2 * (rotated + cancelled))
    assert findings(tmp_path, int(time.time())) == set()


def test_of_applications_added_at_once_none_is_lost(tmp_path):
    path = tmp_path / "new" / "applications.json"
    secrets = [f"{SECRET} of {n}" for n in range(8)]

    def add(n: int) -> int:
        return run("applications", "add", f"application-{n // 2}", "--file", path, stdin=secrets[n])

    assert at_once([lambda n=n: add(n) for n in range(8)]) == [0] * 8
    known, problems = parse(path.read_bytes())
    assert problems == []
    for n, secret in enumerate(secrets):
        assert known.authenticate(application_id=f"application-{n // 2}", secret=secret) in (0, 1)
    remove = ("applications", "remove-secret", "application-0", "--slot", 1, "--file", path)
    # Of two that would leave none, one is refused.
    assert sorted(at_once([lambda: run(*remove)] * 2)) == [0, 1]
    assert sorted(p.name for p in path.parent.iterdir()) == ["applications.json"]


def test_an_application_file_that_is_being_changed_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "LOCK_ATTEMPTS", 3)
    path = tmp_path / "applications.json"
    assert run("applications", "add", "one", "--file", path, stdin=SECRET) == 0
    with atomic.locked(tmp_path / ".applications.json.lock"):
        assert run("applications", "add", "two", "--file", path, stdin=SECRET) == 1
    assert run("applications", "add", "two", "--file", path, stdin=SECRET) == 0
