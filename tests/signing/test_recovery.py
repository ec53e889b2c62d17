"""What becomes of a change whose process was killed: it is finished, or undone without the loss of a key in use."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.conftest import NOW
from verifier.core.times import LEAD_S, utc
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation import history, plan
from verifier.rotation.history import ABSENT
from verifier.rotation.plan import Planner
from verifier.signing.current_key import CurrentKey
from verifier.signing.keystore import Keystore
from verifier.storage import atomic

JOURNAL, NEW_PRIVATE, NEW_PUBLIC, OLD_PUBLIC, HISTORY = range(1, 6)  # what a rotation publishes, in this order
OVERLAP_S = plan.OverlapPolicy().overlap_s
ROTATE = f"the rotate of {utc(NOW)}"


class Killed(BaseException):
    """Ends a command as SIGKILL does: nothing handles it."""


class Folder:
    """A key directory with one current key, and a clock that the test sets."""

    def __init__(self, path, monkeypatch):
        self.monkeypatch = monkeypatch
        self.now = NOW - 1000
        self.store = Keystore(path, lambda: self.now)
        self.kid = self.generate()
        self.now = NOW

    def generate(self) -> str:
        members, pem = self.store.generate_pair("ES256")
        with self.store.transaction():
            step = plan.activate_first_key(members, now=self.now)
            self.store.apply([step], "generate", now=self.now, pem=pem)
        return members["kid"]

    @contextmanager
    def killed_after(self, count: int) -> Iterator[None]:
        """Kill the command in the block right before it publishes another file than the first `count`."""
        publish, published = atomic.publish, []

        def killing(path):
            if len(published) == count:
                raise Killed
            published.append(path)
            publish(path)

        with self.monkeypatch.context() as patch:
            patch.setattr(atomic, "publish", killing)
            try:
                yield
            except Killed:
                return
        pytest.fail("the command ended")

    def rotate(self, **options) -> str:
        members, pem = self.store.generate_pair("ES256")
        self.successor = members["kid"]
        with self.store.transaction() as keyring:
            steps = Planner(keyring, self.now, **options).rotate(members)
            self.store.apply(steps, "rotate", now=self.now, pem=pem)
        return members["kid"]

    def killed_rotation(self, count: int, **options) -> str:
        with self.killed_after(count):
            self.rotate(**options)
        return self.successor

    def revoke(self, kid: str, replacement=None, **options) -> None:
        pem = options.pop("pem", None)
        with self.store.transaction(revoking=True) as keyring:
            steps = Planner(keyring, self.now, **options).revoke(keyring.find(kid), "lost", replacement)
            self.store.apply(steps, "revoke", now=self.now, pem=pem)

    def recover(self, **options) -> list[str]:
        with self.store.transaction(**options):
            pass
        assert not self.store.journal.exists()
        assert [*self.store.folder.rglob("*.tmp")] == []
        return self.store.notes

    def path(self, kid: str):
        return self.store.public.folder / f"{kid}.json"

    def members(self, kid: str) -> dict[str, object]:
        return json.loads(self.path(kid).read_bytes())

    def change(self, kid: str, **members: object) -> None:
        self.path(kid).write_text(json.dumps(self.members(kid) | members))

    def kids(self) -> set[str]:
        return {path.stem for path in self.store.public.folder.iterdir()}

    def events(self) -> list[tuple[str, str, str, str]]:
        """The command, kid and states of each line of the history, which must be valid."""
        found = history.load(self.store.history.read_bytes())
        assert found.problems == ()
        return [(e.command, e.kid, e.old, e.new) for e in found.events]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return Folder(tmp_path / "keys", monkeypatch)


def test_without_an_interrupted_change_nothing_is_reported(folder):
    assert folder.recover() == []


# --- finishing


@pytest.mark.parametrize("count", [JOURNAL, NEW_PRIVATE, NEW_PUBLIC, OLD_PUBLIC])
def test_a_change_that_is_still_valid_is_finished(folder, count):
    kid = folder.killed_rotation(count)
    folder.now = NOW + LEAD_S - plan.PROPAGATION_S
    assert folder.recover() == [f"finished {ROTATE}, which was interrupted"]
    assert folder.kids() == {folder.kid, kid}
    assert folder.members(folder.kid)["exp"] == NOW + LEAD_S + OVERLAP_S
    assert (folder.store.private / f"{kid}.pem").exists()
    assert folder.events()[1:] == [
        ("rotate", kid, ABSENT, "pending"),
        ("rotate", folder.kid, "current", "current"),
    ]


def test_a_change_that_is_in_the_history_is_finished_without_touching_later_changes(folder, monkeypatch):
    def remove(path):
        assert path == folder.store.journal
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "remove", remove)
        with pytest.raises(Killed):
            folder.rotate()
    kid = folder.successor
    folder.change(folder.kid, exp=NOW + 9000)
    folder.now = NOW - 1  # not even the clock matters
    assert folder.recover(undo=True) == [f"finished {ROTATE}, which was interrupted"]
    assert (folder.kids(), folder.members(folder.kid)["exp"]) == ({folder.kid, kid}, NOW + 9000)


def test_a_revocation_is_finished_however_late_and_even_on_request_to_undo_it(folder):
    with folder.killed_after(JOURNAL):
        folder.revoke(folder.kid, force=True)
    folder.now = NOW + 10**6
    assert folder.recover(undo=True) == [f"finished the revoke of {utc(NOW)}, which was interrupted"]
    assert folder.members(folder.kid)["revoked"] == {"revoked_at": NOW, "reason": "lost"}
    assert folder.events()[1:] == [("revoke", folder.kid, "current", "revoked")]


# --- refusing


def test_a_clock_behind_the_change_is_refused_and_leaves_everything(folder):
    folder.killed_rotation(NEW_PUBLIC)
    folder.now = NOW - 5
    with pytest.raises(UnsafeOperationError) as caught:
        folder.recover()
    assert str(caught.value) == f"the clock ({utc(NOW - 5)}) is behind an interrupted change: {ROTATE}"
    assert caught.value.hint == "correct the clock (NTP), then run the command again"
    assert folder.store.journal.exists()


def test_a_file_that_cannot_be_used_is_neither_replaced_nor_ignored(folder):
    kid = folder.killed_rotation(NEW_PUBLIC)
    path = folder.path(folder.kid)
    path.write_text("{")
    with pytest.raises(ConfigError) as caught:
        folder.recover()
    assert str(caught.value) == (
        f"{path}: cannot be used, and {ROTATE}, which was interrupted, changes it; nothing was changed"
    )
    assert caught.value.hint == f"repair {path} or restore it (git checkout -- {path}), then run verifier keys recover"
    assert (path.read_text(), folder.kids()) == ("{", {folder.kid, kid})
    # A revocation proceeds beside it.
    with folder.store.transaction(revoking=True):
        assert folder.store.notes == [str(caught.value)]


def test_a_damaged_journal_is_refused_except_by_a_revocation_which_replaces_it(folder):
    folder.store.journal.write_text("{}")
    says = f"{folder.store.journal}: is not a journal; an interrupted change cannot be finished"
    with pytest.raises(UnsafeOperationError) as caught:
        folder.recover()
    assert str(caught.value) == says
    folder.revoke(folder.kid, force=True)
    assert folder.store.notes == [f"{says}; it is replaced"]
    assert "revoked" in folder.members(folder.kid)
    assert not folder.store.journal.exists()


# --- undoing


@pytest.mark.parametrize("count", [JOURNAL, NEW_PRIVATE, NEW_PUBLIC, OLD_PUBLIC])
def test_a_change_is_undone_on_request(folder, count):
    before = folder.path(folder.kid).read_bytes()
    kid = folder.killed_rotation(count)
    assert folder.recover(undo=True) == [
        f"abandoned {ROTATE}, which was interrupted: it was undone on request; none of it remains"
    ]
    assert (folder.kids(), folder.path(folder.kid).read_bytes()) == ({folder.kid}, before)
    assert not (folder.store.private / f"{kid}.pem").exists()
    assert folder.events() == [("generate", folder.kid, ABSENT, "current")]


def test_a_change_is_undone_when_it_is_no_longer_valid(folder):
    folder.killed_rotation(NEW_PUBLIC)
    until = NOW + LEAD_S - plan.PROPAGATION_S
    folder.now = until + 1
    assert folder.recover() == [
        f"abandoned {ROTATE}, which was interrupted: it was valid until {utc(until)}; none of it remains"
    ]
    assert folder.kids() == {folder.kid}


@pytest.mark.parametrize("late", [0, 1])
def test_a_killed_merge_is_finished_or_leaves_the_history_of_before(folder, late):
    before = folder.store.history.read_bytes()
    (first,) = history.load(before).events
    with folder.killed_after(JOURNAL), folder.store.transaction():
        folder.store.merge([], [replace(first, command="merge", at=NOW)], before, now=NOW)
    folder.now = NOW + plan.PROPAGATION_S + late
    what = f"the merge of {utc(NOW)}"
    if late:
        says = f"abandoned {what}, which was interrupted: it was valid until {utc(folder.now - 1)}; none of it remains"
        expected = ["generate"]
    else:
        says, expected = f"finished {what}, which was interrupted", ["generate", "merge"]
    assert folder.recover() == [says]
    assert [command for command, *_ in folder.events()] == expected


def test_a_change_is_undone_when_other_files_changed(folder, pairs):
    folder.killed_rotation(JOURNAL)
    other = pairs["EdDSA"]
    folder.path(other.kid).write_text(json.dumps(other.public | {"nbf": NOW - 5000}))
    assert folder.recover() == [
        f"abandoned {ROTATE}, which was interrupted: other files of public/ changed meanwhile; none of it remains"
    ]
    assert folder.kids() == {folder.kid, other.kid}


def test_a_change_is_undone_when_the_history_changed(folder):
    folder.killed_rotation(NEW_PRIVATE)
    events = history.load(folder.store.history.read_bytes()).events
    folder.store.history.write_bytes(history.append(folder.store.history.read_bytes(), events))
    assert folder.recover() == [
        f"abandoned {ROTATE}, which was interrupted: history.jsonl changed meanwhile; none of it remains"
    ]
    assert (folder.kids(), len(folder.events())) == ({folder.kid}, 2)


def test_a_file_that_changed_meanwhile_is_kept_as_it_is_now(folder):
    folder.killed_rotation(JOURNAL)
    folder.change(folder.kid, exp=NOW + 9000)
    assert folder.recover() == [
        f"abandoned {ROTATE}, which was interrupted: public/{folder.kid}.json changed meanwhile; none of it remains"
    ]
    assert folder.members(folder.kid)["exp"] == NOW + 9000


@pytest.mark.parametrize(("count", "late"), [(NEW_PUBLIC, 0), (OLD_PUBLIC, 0), (OLD_PUBLIC, 10**6)])
def test_a_published_key_that_may_have_signed_stays_and_the_previous_one_ends_later(folder, count, late):
    kid = folder.killed_rotation(count)
    folder.now = NOW + LEAD_S + late
    until = utc(NOW + LEAD_S - plan.PROPAGATION_S)
    assert folder.recover() == [
        f"{ROTATE} was interrupted halfway (it was valid until {until}) and its key is in use ({kid}); "
        "finished it with a new end for the previous key"
    ]
    assert folder.kids() == {folder.kid, kid}
    assert folder.members(folder.kid)["exp"] == folder.now + LEAD_S + OVERLAP_S
    new, old = folder.events()[1:]
    assert (new, old[:2]) == (("rotate", kid, ABSENT, "current"), ("rotate", folder.kid))
    assert CurrentKey(folder.store.folder).signer(folder.now).kid == kid


def test_a_published_key_stays_when_a_file_that_relies_on_it_changed(folder):
    kid = folder.killed_rotation(NEW_PUBLIC)
    folder.change(folder.kid, exp=NOW + 9000)
    (note,) = folder.recover()
    assert f"its key is in use ({kid})" in note
    assert (folder.kids(), folder.members(folder.kid)["exp"]) == ({folder.kid, kid}, NOW + 9000)
    assert ("rotate", kid, ABSENT, "pending") in folder.events()


def test_an_undone_change_leaves_the_key_that_signs_until_its_last_token_has_expired(folder):
    folder.change(folder.kid, exp=NOW + LEAD_S + 100)
    folder.killed_rotation(OLD_PUBLIC, force=True)
    folder.now = NOW + LEAD_S - 100
    (note,) = folder.recover()
    assert note.endswith(f"; none of it remains; {folder.kid} ends later than before")
    assert folder.members(folder.kid)["exp"] == folder.now + OVERLAP_S
    assert folder.kids() == {folder.kid}
    assert folder.events()[1:] == [("rotate", folder.kid, "current", "current")]


def test_an_undone_change_restores_an_end_that_is_late_enough(folder):
    folder.change(folder.kid, exp=NOW + 10**6)
    before = folder.path(folder.kid).read_bytes()
    folder.killed_rotation(OLD_PUBLIC)
    (note,) = folder.recover(undo=True)
    assert note.endswith("; none of it remains")
    assert folder.path(folder.kid).read_bytes() == before


def test_a_damaged_history_gets_no_line_of_what_stays(folder):
    kid = folder.killed_rotation(NEW_PUBLIC)
    folder.store.history.write_bytes(b"damaged\n")
    folder.now = NOW + LEAD_S
    (note,) = folder.recover()
    assert f"its key is in use ({kid})" in note
    assert folder.store.history.read_bytes() == b"damaged\n"


# --- a revocation on files that changed


def revoked_on_changed_files(folder):
    """Kill a revocation with a replacement after its first public file, so that one file has been written."""
    members, pem = folder.store.generate_pair("ES256")
    with folder.killed_after(NEW_PUBLIC):
        folder.revoke(folder.kid, replacement=members, pem=pem)
    return members["kid"], f"finished the revoke of {utc(NOW)}, which was interrupted, on files that changed meanwhile"


def test_a_revocation_keeps_what_others_wrote_and_revokes(folder):
    kid, says = revoked_on_changed_files(folder)
    folder.change(folder.kid, exp=NOW + 9000)
    assert folder.recover() == [says]
    members = folder.members(folder.kid)
    assert (members["exp"], members["revoked"]) == (NOW + 9000, {"revoked_at": NOW, "reason": "lost"})
    assert list(members)[-1] == "revoked"  # as in every other file, because git merges lines
    assert folder.events()[1:] == [
        ("revoke", kid, ABSENT, "current"),
        ("revoke", folder.kid, "current", "revoked"),
    ]


def test_a_revocation_replaces_a_file_that_cannot_be_used_and_leaves_a_replacement_that_changed(folder):
    kid, says = revoked_on_changed_files(folder)
    folder.path(folder.kid).write_text("{")
    folder.change(kid, exp=NOW + 10**6)
    assert folder.recover() == [says]
    assert folder.members(folder.kid)["revoked"] == {"revoked_at": NOW, "reason": "lost"}
    assert folder.members(kid)["exp"] == NOW + 10**6


def test_a_revocation_continues_a_history_that_changed(folder):
    kid, says = revoked_on_changed_files(folder)
    events = history.load(folder.store.history.read_bytes()).events
    folder.store.history.write_bytes(history.append(folder.store.history.read_bytes(), events))
    folder.now = NOW + 50
    assert folder.recover() == [says]
    assert [event[1] for event in folder.events()] == [folder.kid, folder.kid, kid, folder.kid]
    assert [event.at for event in history.load(folder.store.history.read_bytes()).events[2:]] == [NOW + 50] * 2


def test_a_revocation_is_finished_beside_a_damaged_history(folder):
    _, says = revoked_on_changed_files(folder)
    folder.store.history.write_bytes(b"damaged\n")
    repair = "; the history is not valid and has no line of it; repair it, then verifier keys merge"
    assert folder.recover() == [says + repair]
    assert folder.members(folder.kid)["revoked"] == {"revoked_at": NOW, "reason": "lost"}
    assert folder.store.history.read_bytes() == b"damaged\n"
