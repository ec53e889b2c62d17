"""Whatever two people do on two branches: after a merge, a trusted key signs and no revoked one is accepted."""

import json
import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import NOW
from tests.rotation.test_plan_property import POOL, WINDOW, ring
from verifier.core.keyring import Keyring, KeyState
from verifier.errors import UnsafeOperationError
from verifier.rotation import history, merge, plan, preconditions
from verifier.rotation.events import make_event
from verifier.rotation.plan import Planner
from verifier.signing.recovery import render
from verifier.storage.key_directory import KeyDirectory

COMMANDS = ("rotate", "rotate-2h", "cancel", "revoke", "revoke-replace", "prune")
WAITS = (0, 1, 30, 599, 3000, 3700, 8000)
STEP = st.tuples(st.sampled_from((0, 1)), st.sampled_from((*COMMANDS, "merge")), st.sampled_from(WAITS))


@dataclass
class Branch:
    """The files and the history of one checkout."""

    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: bytes = b""

    @property
    def keyring(self) -> Keyring:
        return ring(self.members)

    def copy(self) -> "Branch":
        return Branch(json.loads(json.dumps(self.members)), self.log)

    def files(self) -> dict[str, bytes]:
        return {f"{kid}.json": render(members).encode() for kid, members in self.members.items()}


def three_way(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    """A file after `git merge`: with conflict markers where both changed it, kept where only one removed it."""
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    if ours is None or theirs is None:
        return ours or theirs
    return b"<<<<<<< HEAD\n" + ours + b"=======\n" + theirs + b">>>>>>> other\n"


class World:
    """Main, which is deployed, and another branch."""

    def __init__(self) -> None:
        self.now, self.left, self.ended = NOW, iter(POOL), False
        self.branches = [Branch(), Branch()]
        self.revoked: set[str] = set()
        first = plan.activate_first_key(next(self.left), now=NOW)
        self.apply(self.branches[0], [first], "generate")
        self.base, self.branches[1] = self.branches[0].copy(), self.branches[0].copy()

    def apply(self, branch: Branch, steps: plan.Plan, command: str) -> None:
        for step in steps:
            if step.members is None:
                branch.members.pop(step.kid)
            else:
                branch.members[step.kid] = dict(step.members)
            if step.new == KeyState.REVOKED:
                self.revoked.add(step.kid)
        events = [make_event(step, command, now=self.now) for step in steps]
        branch.log = history.append(branch.log, events)

    def run(self, number: int, command: str) -> None:
        branch, now = self.branches[number], self.now
        keyring, name = branch.keyring, command.partition("-")[0]
        current, jwk = keyring.current(now), next(self.left)
        events = history.load(branch.log).events

        def previous_exp(kid: str) -> int | None:
            return history.previous_exp(events, kid, keyring.keys[kid].exp)

        try:
            if name == "rotate":
                lead_s = 7200 if command == "rotate-2h" else 3600
                steps = Planner(keyring, now, window=WINDOW).rotate(jwk, lead_s=lead_s)
            elif name == "cancel":
                pending = plan.pending_keys(keyring, now)
                kid = pending[-1].kid if pending else ""
                steps = Planner(keyring, now, window=WINDOW, previous_exp=previous_exp).cancel(kid)
            elif name == "revoke":
                replacement = jwk if command == "revoke-replace" else None
                steps = Planner(keyring, now, window=WINDOW).revoke(current, "x", replacement=replacement)
            else:
                steps = [step for step in Planner(keyring, now).prune() if step.members is None]
        except UnsafeOperationError:
            return
        self.apply(branch, steps, name)

    def merge(self, number: int) -> None:
        """Merge the other branch into this one, as `git merge` and `keys merge` do."""
        ours, theirs = self.branches[number], self.branches[1 - number]
        if self.base.log in (ours.log, theirs.log):  # git has nothing to merge
            self.base = (theirs if ours.log == self.base.log else ours).copy()
            self.branches = [self.base.copy(), self.base.copy()]
            return
        sides = [branch.files() for branch in (self.base, ours, theirs)]
        names = sorted(set().union(*sides))
        files = {name: three_way(*(side.get(name) for side in sides)) for name in names}
        added = [branch.log.removeprefix(self.base.log) for branch in (ours, theirs)]
        log = three_way(b"", *added) or b""
        signing = [branch.keyring.current(self.now) for branch in (ours, theirs)]
        branches = merge.read_branches(self.base.log + log)
        held = merge.resolve({n: c for n, c in files.items() if c is not None}, branches, self.now, WINDOW)
        events = merge.events(branches, held, now=self.now)
        log = history.append(branches[0].content, events)
        merged = Branch({kid: m for kid, m in held.items() if m is not None}, log)
        # git removes the file of a key that one branch withdrew in time, although it signs by now on the other one.
        events = [event for branch in (ours, theirs) for event in history.load(branch.log).events]
        withdrawn = {event.kid for event in events if event.new == history.REMOVED}
        self.check_merge(merged, {key.kid for key in signing if key is not None} - self.revoked, withdrawn)
        self.branches = [merged.copy(), merged.copy()]
        self.base = merged

    def check_merge(self, merged: Branch, signing: set[str], withdrawn: set[str]) -> None:
        log = history.load(merged.log)
        assert log.problems == ()
        dates = {k: {n: m.get(n) for n in ("nbf", "exp")} for k, m in merged.members.items()}
        assert {k: {n: getattr(d, n) for n in ("nbf", "exp")} for k, d in history.replay(log.events).items()} == dates
        # Two branches can revoke each other's key; `keys merge` reports it.
        self.ended = not signing and merged.keyring.current(self.now) is None
        kept = [key for key in merged.keyring.keys.values() if key.kid in signing]
        assert signing - withdrawn <= {key.kid for key in kept}, "a key that signs was removed"
        for key in kept:
            assert key.exp is None or key.exp >= self.now + WINDOW.overlap_s, "its last tokens are rejected"

    def check(self) -> None:
        for branch in self.branches:
            keyring = branch.keyring
            assert keyring.current(self.now) is not None, "no key signs"
        # What was revoked on a branch reaches the other one by the merge.
        if self.base.log == self.branches[0].log == self.branches[1].log:
            accepted = {key.kid for key in self.branches[0].keyring.verification_keys(self.now, WINDOW.leeway_s)}
            assert not accepted & self.revoked


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
@given(steps=st.lists(STEP, min_size=3, max_size=12))
def test_after_every_merge_a_trusted_key_signs_and_no_revoked_one_is_accepted(steps):
    world = World()
    for number, command, wait in [*steps, (0, "merge", 0)]:
        world.now += wait
        world.merge(number) if command == "merge" else world.run(number, command)
        if world.ended:
            break
        world.check()


@pytest.mark.parametrize("number", [0, 1])
def test_a_directory_after_a_merge_is_one_that_commands_plan_on(tmp_path, number):
    world = World()
    world.run(0, "rotate")
    world.now += 40
    world.run(1, "revoke-replace")
    world.merge(number)
    folder = tmp_path / "public"
    folder.mkdir()
    for name, content in world.base.files().items():
        (folder / name).write_bytes(content)
    directory = KeyDirectory(folder)
    directory.refresh()
    assert preconditions.obstacles(directory, tmp_path / "history.jsonl", world.base.log, world.now) == []
    shutil.rmtree(folder)
