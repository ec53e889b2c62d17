"""Whatever commands run, are killed, come late or meet damaged files: a key remains that signer and replicas share."""

import io
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import NOW
from tests.support import forge
from verifier.cli.main import cli
from verifier.core.keyring import Keyring
from verifier.errors import ConfigError
from verifier.rotation.history import load
from verifier.rotation.history_checks import transitions
from verifier.signing import keystore
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory

POOL = [forge.Pair("EdDSA", keystore.generate("EdDSA")).key for _ in range(30)]
WAITS = (0, 1, 40, 600, 3000, 3700, 7200, 2 * 86_400)
COMMANDS = (
    ("generate",),
    ("rotate",),
    ("cancel",),
    ("prune",),
    ("recover",),
    ("merge",),
    ("revoke", "--reason", "leaked", "--replace", "--kid"),
)
STEP = st.tuples(
    st.sampled_from(COMMANDS),
    st.sampled_from(WAITS),
    st.none() | st.integers(1, 14),  # the write or rename before which the command is killed
    st.sampled_from(("", "", "", "bom", "conflict")),  # what happens to the current key's file while it runs
)


class Killed(BaseException):
    """The process was killed here."""


def keyring(folder: Path) -> Keyring:
    directory = KeyDirectory(folder / "public")
    directory.refresh()
    return directory.keyring


def prepare(patch: pytest.MonkeyPatch, clock: Callable[[], int]) -> None:
    """Set the clock, and take the keys from a pool, because generating and synchronizing them takes long."""
    left = iter(POOL)
    patch.setattr(keystore, "generate", lambda alg: next(left))
    patch.setattr(time, "time", clock)
    patch.setattr(os, "fsync", lambda descriptor: None)


def run(arguments: list[str], kill_at: int | None, patch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """Run a command, killed before its nth write; return whether it succeeded, and what it said."""
    steps, errors = itertools.count(1), io.StringIO()

    def counted(function):
        def call(*values, **options):
            if next(steps) == kill_at:
                raise Killed
            return function(*values, **options)

        return call

    with patch.context() as inner, redirect_stdout(io.StringIO()), redirect_stderr(errors):
        for name in ("stage", "publish", "remove", "unstage"):
            if kill_at is not None:
                inner.setattr(atomic, name, counted(getattr(atomic, name)))
        inner.setattr(sys, "stdin", io.StringIO())
        try:
            cli.main(arguments, prog_name="verifier", standalone_mode=False)
        except Killed:
            return False, "killed"
        except ConfigError as exc:
            return False, f"{errors.getvalue()}{exc} {exc.hint}"
        except click.ClickException as exc:
            return False, exc.format_message()
        except SystemExit as end:
            return not end.code, errors.getvalue()
    return True, errors.getvalue()


# Of tests whose steps run commands: each takes long, and is not shortened when it fails.
LONG_STEPS = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)


class World:
    """A key directory where tokens are signed, and the replicas: of this folder, and of what was deployed last."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.now = folder, patch, NOW
        self.deployed, self.revoked, self.trail = Keyring(), set(), b""
        prepare(patch, lambda: self.now)

    def step(self, command: tuple[str, ...], wait: int, kill_at: int | None, damage: str) -> None:
        self.now += wait
        before = keyring(self.folder)
        current = before.current(self.now)
        words = [*command, current.kid] if command[-1] == "--kid" and current else list(command)
        if command[-1] == "--kid" and not current:
            return
        path = self.folder / "public" / f"{current.kid}.json" if current else None
        good = path.read_bytes() if path else b""
        if path and damage and command[0] not in ("revoke", "merge"):
            path.write_bytes(b"\xef\xbb\xbf{" if damage == "bom" else b"<<<<<<< HEAD\n" + good)
        done, _ = run(["keys", *words, "--keys", str(self.folder)], kill_at, self.patch)
        if path and damage and command[0] not in ("revoke", "merge"):
            assert not path.read_bytes().startswith(good), "a command changed a file that it could not read"
            path.write_bytes(good)  # its owner repairs it
        # What is in the history is complete and deployed, also if its command died afterwards.
        trail = (self.folder / "history.jsonl").read_bytes()
        if done or trail != self.trail:
            self.trail = trail
            self.deployed = keyring(self.folder)
        found = keyring(self.folder)
        self.revoked |= {key.kid for key in found.keys.values() if key.revoked_at is not None}
        self.check(found)

    def check(self, found: Keyring) -> None:
        accepted = {key.kid for key in found.verification_keys(self.now, 30)}
        assert not accepted & self.revoked
        if self.deployed.current(self.now) is None:
            return  # nothing was deployed yet
        here = {path.stem for path in self.folder.glob("private/*.pem")}
        assert here & accepted, (here, accepted)
        deployed = {key.kid for key in self.deployed.verification_keys(self.now, 30)} - self.revoked
        # While a change is interrupted, its files are of no use to others: the next command names it.
        interrupted = (self.folder / "private" / ".commit.json").exists()
        assert interrupted or not deployed or here & deployed & accepted, (here, deployed, accepted)
        assert found.current(self.now), "no key signs"


@settings(LONG_STEPS, max_examples=150)
@given(steps=st.lists(STEP, min_size=4, max_size=14))
def test_at_every_moment_there_is_a_key_that_the_signer_has_and_every_replica_accepts(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("sequence") / "keys"
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, patch)
        world.step(("generate",), 0, None, "")
        for step in steps:
            world.step(*step)
    log = load((folder / "history.jsonl").read_bytes())
    assert list(transitions(SimpleNamespace(history=log, keyring=keyring(folder), is_new=lambda _: True))) == []
    shutil.rmtree(folder)
