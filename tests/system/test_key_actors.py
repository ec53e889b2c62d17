"""Whatever several people do in one key directory at once, killed, suspended, late: signer and replicas share a key."""

import mmap
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import NOW
from tests.system.test_key_branches import WINDOW
from tests.system.test_key_sequences import LONG_STEPS, POOL, keyring, run
from verifier.core.keyring import Keyring
from verifier.rotation.audit import findings
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import pending_keys
from verifier.signing import keystore
from verifier.storage import atomic

COMMANDS = ("rotate", "rotate", "cancel", "revoke", "revoke-pending", "prune", "recover", "generate", "merge")
KILLED = -1
ROUND = st.tuples(
    st.sampled_from((0, 1, 40, 600, 3700, 2 * 86_400)),  # how long it is until then
    st.sampled_from(("", "", "", "bom", "conflict")),  # what is wrong with the current key's file meanwhile
    st.lists(st.sampled_from(COMMANDS), min_size=2, max_size=3),  # who begins
    # Who makes the next step, and what happens before: nothing, that process is killed, or so many seconds pass.
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from((0, 0, 0, 0, 0, KILLED, 20, 3000))), max_size=30),
)
TIMEOUT_S = 30  # of one step
# What only the next `prune` removes, and that a process which was suspended moved an end.
TOLERATED = {"private-kept", "past-switch"}


class Actor:
    """A process that runs a command, and waits for its turn before each write and each attempt to lock."""

    def __init__(self, words: list[str], key: object, clock: Callable[[], int]) -> None:
        self.words, self.ended = words, False
        self._reports, there = os.pipe()
        here, self._turns = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._run(key, clock, here, there)
            finally:
                os._exit(70)
        os.close(here)
        os.close(there)
        self._wait()

    def _run(self, key: object, clock: Callable[[], int], here: int, there: int) -> None:
        def turn(*_: object) -> None:
            os.write(there, b".")
            os.read(here, 1)

        def in_turn(function: Callable[..., None]) -> Callable[..., None]:
            return lambda *values: (turn(), function(*values))[1]

        with pytest.MonkeyPatch.context() as patch:
            for name in ("stage", "publish", "remove", "unstage"):
                patch.setattr(atomic, name, in_turn(getattr(atomic, name)))
            patch.setattr(atomic, "LOCK_ATTEMPTS", 4)
            patch.setattr(time, "sleep", turn)
            patch.setattr(time, "time", clock)
            patch.setattr(os, "fsync", lambda _: None)
            patch.setattr(keystore, "generate", lambda _: key)
            run(self.words, None, patch)
        os.write(there, b"x")
        os._exit(0)

    def step(self) -> None:
        """Let it do its next write."""
        os.write(self._turns, b".")
        self._wait()

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._reap()

    def _wait(self) -> None:
        ready, _, _ = select.select([self._reports], [], [], TIMEOUT_S)
        assert ready, f"{self.words} hangs"
        if os.read(self._reports, 1) != b".":
            assert self._reap() == 0, f"{self.words} failed"

    def _reap(self) -> int:
        self.ended = True
        os.close(self._reports)
        os.close(self._turns)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class World:
    """A key directory in which several people work, its signer, and its replicas."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.revoked, self.deployed, self._keys = folder, set(), Keyring(), iter(POOL)
        self._shared = mmap.mmap(-1, 8)  # the clock of every process
        self.wait(NOW)
        patch.setattr(time, "time", self.clock)
        # In this process, so that the others need not import everything.
        assert run(["keys", "generate", "--keys", str(folder)], None, patch)[0]

    def clock(self) -> int:
        return int.from_bytes(self._shared[:8])

    def wait(self, seconds: int) -> None:
        self._shared[:8] = (self.clock() + seconds).to_bytes(8)

    def round(self, wait: int, damage: str, commands: list[str], turns: list[tuple[int, int]]) -> None:
        self.wait(wait)
        self.check()
        path = self.current_path()
        actors = [self.start(command) for command in commands]
        try:
            good = path.read_bytes()
            bad = {"bom": b"\xef\xbb\xbf" + good, "conflict": b"<<<<<<< HEAD\n" + good}.get(damage, good)
            path.write_bytes(bad)
            for number, event in turns:
                actor = actors[number % len(actors)]
                if actor.ended:
                    continue
                if event == KILLED:
                    actor.kill()
                else:
                    self.wait(event)
                    actor.step()
                self.check(damaged=bool(damage))
            self.finish(actors, damaged=bool(damage))
            if damage and path.exists() and path.read_bytes() == bad:
                path.write_bytes(good)  # its owner repairs it
            self.check()
        finally:
            for actor in actors:
                if not actor.ended:
                    actor.kill()

    def current_path(self) -> Path:
        current = keyring(self.folder).current(self.clock())
        assert current, "no key signs"
        return self.folder / "public" / f"{current.kid}.json"

    def start(self, command: str) -> Actor:
        ring, words = keyring(self.folder), [command]
        if command.startswith("revoke"):
            pending = pending_keys(ring, self.clock()) if command == "revoke-pending" else []
            key = [ring.current(self.clock()), *pending][-1]
            words = ["revoke", "--reason", "leaked", "--replace", "--kid", key.kid]
        return Actor(["keys", *words, "--keys", str(self.folder)], next(self._keys), self.clock)

    def finish(self, actors: list[Actor], *, damaged: bool = False) -> None:
        """Give everyone a turn until all have ended."""
        while running := [actor for actor in actors if not actor.ended]:
            for actor in running:
                actor.step()
                self.check(damaged=damaged)

    def check(self, *, damaged: bool = False) -> None:
        ring, now = keyring(self.folder), self.clock()
        self.revoked |= {key.kid for key in ring.keys.values() if key.revoked_at is not None}
        accepted = {key.kid for key in ring.verification_keys(now, WINDOW.leeway_s)}
        assert not accepted & self.revoked, "a revoked key is accepted"
        if damaged or not ring.keys:
            return
        assert ring.current(now), "no key signs"
        here = {path.stem for path in self.folder.glob("private/*.pem")}
        assert here & accepted, "what can sign is not accepted"
        if (self.folder / "private" / ".commit.json").exists():
            return  # files of an unfinished change are of no use to others: the next command names it
        replicas = {key.kid for key in self.deployed.verification_keys(now, WINDOW.leeway_s)}
        urgent = replicas & self.revoked  # which is deployed at once
        assert urgent or not self.deployed.keys or here & accepted & replicas, "signer and replicas share no key"
        self.deployed = ring

    def audit(self) -> None:
        self.finish([self.start("recover")])
        state = Inventory.read(self.folder, now=self.clock(), window=WINDOW)
        assert [finding for finding in findings(state) if finding.rule not in TOLERATED] == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@settings(LONG_STEPS, max_examples=12)
@given(rounds=st.lists(ROUND, min_size=2, max_size=4))
def test_at_every_write_of_several_commands_there_is_a_key_that_signer_and_replicas_share(tmp_path_factory, rounds):
    folder = tmp_path_factory.mktemp("actors") / "keys"
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, patch)
        for each in rounds:
            world.round(*each)
        world.audit()
    shutil.rmtree(folder.parent)
