"""A command that is suspended (SIGSTOP, a closed lid, a snapshot of the machine) plans again or refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verifier.rotation.plan import PROPAGATION_S
from verifier.storage.key_directory import KeyDirectory

HOUR = 3600
# Runs a command by a clock that the parent sets, and stops itself before the nth call of a function.
CHILD = """
import os, signal, sys, time
from pathlib import Path

real, offset = time.time, Path(sys.argv[1])
time.time = lambda: real() + float(offset.read_text())
module, name, number = sys.argv[2].split(":")
if module:
    import importlib
    owner, left = importlib.import_module(module), [int(number)]
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function = getattr(owner, name)
    def stopping(*values, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*values, **options)
    setattr(owner, name, stopping)
sys.argv[:] = ["verifier", *sys.argv[3:]]
from verifier.cli.main import main
main()
"""
BEFORE_THE_LOCK = "verifier.storage.atomic:locked:1"
PLANNED = "verifier.storage.atomic:stage:1"
BEFORE_THE_JOURNAL = "verifier.storage.atomic:publish:1"
FIRST_FILE, SECOND_FILE, THIRD_FILE = (f"verifier.storage.atomic:publish:{number}" for number in (2, 3, 4))


class World:
    """A key directory, and a clock that can be moved."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys, self.clock = folder, folder / "keys", folder / "clock"
        self.clock.write_text("0")

    @property
    def now(self) -> float:
        return time.time() + float(self.clock.read_text())

    def start(self, *words: str, stop: str = "::") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.clock), stop, "keys", *words, "--keys", str(self.keys)],
            env={name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        with self.start(*words) as child:
            try:
                out, err = child.communicate(timeout=60)
            finally:
                child.kill()
        return child.returncode, out, err

    def suspend(self, *words: str, stop: str, seconds: int) -> tuple[int, str, str]:
        """Run a command that is suspended at a point for so long."""
        with self.start(*words, stop=stop) as child:
            try:
                _, status = os.waitpid(child.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status), "the command ended before the point at which it stops"
                self.clock.write_text(str(float(self.clock.read_text()) + seconds))
                child.send_signal(signal.SIGCONT)
                out, err = child.communicate(timeout=60)
            finally:
                child.kill()
        return child.returncode, out, err

    def states(self) -> dict[str, str]:
        directory = KeyDirectory(self.keys / "public")
        directory.refresh()
        return {k: directory.keyring.state(key, int(self.now)).value for k, key in directory.keyring.keys.items()}

    def check(self) -> None:
        """No finding, a key that signs, and no pending key that replicas may not have in time."""
        _, out, _ = self.run("audit", "--json")
        found = [f for f in json.loads(out)["findings"] if f["rule"] not in ("private-kept", "pending-window")]
        assert found == []
        directory = KeyDirectory(self.keys / "public").load()
        assert directory.current(int(self.now)) is not None
        lines = [json.loads(line)["at"] for line in (self.keys / "history.jsonl").read_text().splitlines()]
        assert lines == sorted(lines)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    assert world.run("generate")[0] == 0
    return world


def test_a_command_that_is_suspended_before_its_lock_plans_by_the_time_afterwards(world):
    status, _, err = world.suspend("rotate", stop=BEFORE_THE_LOCK, seconds=2 * HOUR)
    assert (status, err) == (0, "")
    (pending,) = (kid for kid, state in world.states().items() if state == "pending")
    key = KeyDirectory(world.keys / "public").load().find(pending)
    assert HOUR - 60 <= key.nbf - world.now <= HOUR
    world.check()


@pytest.mark.parametrize("command", ["rotate", "cancel"])
@pytest.mark.parametrize("stop", [PLANNED, BEFORE_THE_JOURNAL])
def test_a_command_that_is_suspended_before_it_commits_refuses(world, command, stop):
    if command == "cancel":
        assert world.run("rotate")[0] == 0
    public = {path.name: path.read_bytes() for path in (world.keys / "public").iterdir()}
    status, out, err = world.suspend(command, stop=stop, seconds=2 * HOUR)
    assert (status, out) == (1, "")
    assert "the clock moved by 72" in err
    assert err.endswith("the process was suspended or the clock was set: run the command again\n")
    assert {path.name: path.read_bytes() for path in (world.keys / "public").iterdir()} == public
    world.check()


@pytest.mark.parametrize("stop", [FIRST_FILE, SECOND_FILE, THIRD_FILE])
@pytest.mark.parametrize("command", ["rotate", "cancel"])
def test_a_command_that_is_suspended_while_it_writes_loses_no_key(world, command, stop):
    if command == "cancel":
        assert world.run("rotate")[0] == 0
        stop = {THIRD_FILE: SECOND_FILE}.get(stop, stop)  # it writes two files
    status, _, err = world.suspend(command, stop=stop, seconds=2 * HOUR)
    assert (status == 0) == (err == "")
    if status:
        assert "the clock moved by 72" in err
    world.check()
    for key in KeyDirectory(world.keys / "public").load().keys.values():
        assert key.exp is None or key.exp - world.now > PROPAGATION_S or world.states()[key.kid] == "expired"


@pytest.mark.parametrize("stop", [BEFORE_THE_LOCK, PLANNED, FIRST_FILE, THIRD_FILE])
def test_a_revocation_that_is_suspended_revokes(world, stop):
    (first,) = world.states()
    status, _, err = world.suspend("revoke", "--kid", first, "--reason", "x", "--replace", stop=stop, seconds=2 * HOUR)
    assert (status, err) == (0, "")
    assert sorted(world.states().values()) == ["current", "revoked"]
    assert world.states()[first] == "revoked"
    world.check()
