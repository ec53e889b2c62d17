"""Whatever two people do on two branches, interrupted, late, on damaged files: signer and replicas share a key."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rotation.test_tampering import AUTHOR, commit, git
from tests.system.test_key_sequences import LONG_STEPS, NOW, WAITS, keyring, prepare, run
from verifier.core.keyring import Keyring
from verifier.rotation import history, key_checks
from verifier.rotation.audit import findings
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import OverlapPolicy, pending_keys

WINDOW = OverlapPolicy()
NAMES = ("main", "side")  # of the branches; the first one is deployed
COMMANDS = ("rotate", "cancel", "revoke", "revoke-pending", "prune", "recover", "generate")
STEP = st.tuples(
    st.sampled_from((0, 1)),
    st.sampled_from((*COMMANDS, "merge", "merge")),
    st.sampled_from(WAITS),
    st.none() | st.integers(1, 14),  # the write or rename before which the command is killed
    st.sampled_from(("", "", "", "bom", "conflict", "lost", "history")),  # what happens while the command runs
)
# What a merge leaves to be decided, and what only the next `prune` removes. And `key-origin`, because a revocation that
# was finished beside a damaged history has no line of its own: `merge` records its new key.
TOLERATED = {"one-pending", "private-kept", "no-current", "successor", "key-origin"}


@pytest.fixture(scope="module", autouse=True)
def committed_later() -> Iterator[None]:
    """Commits are later than every line: they have no time of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_COMMITTER_DATE", f"{NOW + 10**8} +0000")
        yield


class Clone:
    """A working tree of the repository, on a branch of its own."""

    def __init__(self, top: Path) -> None:
        self.top, self.folder = top, top / "keys"
        self.revoked: set[str] = set()
        self.said_none = False  # the last command said that no key signs

    @property
    def log(self) -> bytes:
        return (self.folder / "history.jsonl").read_bytes()

    @property
    def interrupted(self) -> bool:
        return (self.folder / "private" / ".commit.json").exists()

    def commit(self) -> None:
        if git(self.top, "status", "--porcelain"):
            commit(self.top)


class World:
    """Two clones: the first is deployed, and the second is merged into it at some time, or the other way round."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.now, self.patch, self.deployed = NOW, patch, Keyring()
        prepare(patch, lambda: self.now)
        main, side = (folder / name for name in NAMES)
        main.mkdir()
        git(main, "init", "-q", "-b", "main", "--template=")
        for name, value in (("core.fsync", "none"), ("gc.auto", "0")):
            git(main, "config", name, value)
        (main / ".gitignore").write_text("keys/private/\n")
        self.clones = [Clone(main), Clone(side)]
        assert run(["keys", "generate", "--keys", str(main / "keys")], None, patch)[0]
        commit(main)
        git(main, "worktree", "add", "-q", "-b", "side", str(side))
        shutil.copytree(main / "keys" / "private", side / "keys" / "private")
        self.deployed = keyring(main / "keys")
        self.check()

    def step(self, number: int, command: str, wait: int, kill_at: int | None, damage: str) -> None:
        self.now += wait
        if command == "merge":
            self.merge(number, kill_at)
        else:
            self.run(self.clones[number], command, kill_at, damage)
        self.check()

    def run(self, clone: Clone, command: str, kill_at: int | None, damage: str) -> None:
        words = self.words(clone, command)
        if words is None:
            return
        current = keyring(clone.folder).current(self.now)
        path = clone.folder / "public" / f"{current.kid}.json" if current else clone.folder / "history.jsonl"
        path = clone.folder / "history.jsonl" if damage == "history" else path
        good, bad = path.read_bytes(), None
        if damage and not command.startswith("revoke"):
            path.unlink()
            bad = {"bom": b"\xef\xbb\xbf{", "lost": None}.get(damage, b"<<<<<<< HEAD\n" + good)
            if bad is not None:
                path.write_bytes(bad)
        _, text = run(["keys", *words, "--keys", str(clone.folder)], kill_at, self.patch)
        if damage and not command.startswith("revoke"):
            left = path.read_bytes() if path.exists() else None
            if bad is None and "none of it remains" in text:
                pass  # the file was part of an interrupted change, which was abandoned
            elif left == bad:
                path.write_bytes(good)  # its owner repairs it
            elif left != good:  # by a revocation that was killed before
                assert keyring(clone.folder).keys[path.stem].revoked_at, "a command wrote over a damaged file"
        self.finish(clone, text)

    def words(self, clone: Clone, command: str) -> list[str] | None:
        ring = keyring(clone.folder)
        current, pending = ring.current(self.now), pending_keys(ring, self.now)
        if command.startswith("revoke"):
            key = pending[-1] if pending and command == "revoke-pending" else current
            return None if key is None else ["revoke", "--reason", "leaked", "--replace", "--kid", key.kid]
        if command == "cancel":
            return ["cancel", "--kid", pending[-1].kid] if pending else None
        return [command]

    def finish(self, clone: Clone, text: str) -> None:
        ring = keyring(clone.folder)
        clone.said_none = "no key is current" in text or (clone.said_none and ring.current(self.now) is None)
        clone.revoked |= {key.kid for key in ring.keys.values() if key.revoked_at is not None}
        if not clone.interrupted:
            clone.commit()
            if clone is self.clones[0]:
                self.deployed = ring

    def merge(self, number: int, kill_at: int | None) -> None:
        """Merge the other branch into this one with git, and do what `verifier keys merge` and the audit say."""
        clone, other = self.clones[number], self.clones[1 - number]
        for each in (clone, other):
            done, text = run(["keys", "recover", "--keys", str(each.folder)], None, self.patch)
            assert done, text
            self.finish(each, text)
        before, start = keyring(clone.folder), git(clone.top, "rev-parse", "HEAD").strip()
        subprocess.run(
            ["git", *AUTHOR, "merge", "-q", NAMES[1 - number]], cwd=clone.top, capture_output=True, check=False
        )
        text = self.resolve(clone, kill_at)
        if number == 0 and self.is_late(clone, before, clone.revoked | other.revoked):
            git(clone.top, "reset", "-q", "--hard", start)
            self.finish(clone, self.resolve(clone, None))  # what a revocation could not record
            git(other.top, "reset", "-q", "--hard", NAMES[number])
            other.revoked = set(clone.revoked)
        else:
            clone.revoked |= other.revoked
            self.finish(clone, text)
        for one, two in ((clone, other), (other, clone)):  # every signer gets the keys of both
            for path in (one.folder / "private").glob("*.pem"):
                if not (two.folder / "private" / path.name).exists():
                    shutil.copy(path, two.folder / "private")

    def resolve(self, clone: Clone, kill_at: int | None) -> str:
        """Run `verifier keys merge` and the command of its hint; return what it said at the end."""
        for _ in range(4):
            done, text = run(["keys", "merge", "--keys", str(clone.folder)], kill_at, self.patch)
            if done:
                assert history.load(clone.log).problems == ()
                return text
            restore = re.search(r"again: (git checkout .*); where", text)
            assert restore or kill_at, text
            if restore:
                subprocess.run(["bash", "-ec", restore[1]], cwd=clone.top, check=True, capture_output=True)
            kill_at = None
        raise AssertionError(text)

    def is_late(self, clone: Clone, before: Keyring, revoked: set[str]) -> bool:
        """Whether players would be rejected after the merge, because the other branch came too late."""
        signing, ring = before.current(self.now), keyring(clone.folder)
        if signing is None or signing.kid in revoked:
            return False
        kept = ring.find(signing.kid)
        late = kept is None or (kept.exp is not None and kept.exp < self.now + WINDOW.overlap_s)
        state = SimpleNamespace(now=self.now, deployed=before, keyring=ring)
        assert list(key_checks.late(state)) or not late, "the audit does not find that the branch came too late"
        return late

    def check(self) -> None:
        for clone in self.clones:
            ring = keyring(clone.folder)
            accepted = {key.kid for key in ring.verification_keys(self.now, WINDOW.leeway_s)}
            assert not accepted & clone.revoked, "a revoked key is accepted"
            if ring.current(self.now) is None:
                assert clone.said_none, "no key signs, and the last command did not say so"
                continue
            here = {path.stem for path in clone.folder.glob("private/*.pem")}
            assert here & accepted, "what can sign is not accepted"
            deployed = self.deployed if clone is self.clones[0] else ring
            replicas = {key.kid for key in deployed.verification_keys(self.now, WINDOW.leeway_s)} - clone.revoked
            # While a change is interrupted, its files are of no use to others: the next command names it.
            assert clone.interrupted or here & accepted & replicas, "signer and replicas share no key"

    def audit(self) -> None:
        """Require that after a merge, the audit finds nothing but what is to be decided."""
        self.merge(0, None)
        clone = self.clones[0]
        state = Inventory.read(clone.folder, now=self.now, window=WINDOW)
        found = [finding for finding in findings(state) if finding.rule not in TOLERATED]
        assert found == []


@settings(LONG_STEPS, max_examples=40)
@given(steps=st.lists(STEP, min_size=4, max_size=12))
def test_at_every_moment_on_each_branch_there_is_a_key_that_signer_and_replicas_share(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("branches")
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, patch)
        for step in steps:
            world.step(*step)
        world.audit()
    shutil.rmtree(folder)
