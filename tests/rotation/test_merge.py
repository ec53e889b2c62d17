"""A merge of two branches: what the files and the history are after it."""

import json
from typing import Any

import pytest

from tests.conftest import NOW
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation import history, merge
from verifier.rotation.events import user_name
from verifier.rotation.history import Event
from verifier.rotation.merge import Branch, Branches, read_branches
from verifier.rotation.plan import OverlapPolicy

WINDOW = OverlapPolicy(300, 30)
DAY = 86_400
REVOKED = {"revoked_at": NOW - 10, "reason": "leaked"}


@pytest.fixture
def first(pairs) -> dict[str, Any]:
    return dict(pairs["ES256"].public) | {"iat": NOW - DAY, "nbf": NOW - DAY}


@pytest.fixture
def second(pairs) -> dict[str, Any]:
    return dict(pairs["EdDSA"].public) | {"iat": NOW - 60, "nbf": NOW + 3600}


def event(members: dict[str, Any], command: str = "generate", **changes: Any) -> Event:
    """The line of a command that left a key with these members."""
    dates: dict[str, Any] = {"nbf": members["nbf"], "exp": members.get("exp")}
    dates["revoked_at"] = members.get("revoked", {}).get("revoked_at")
    values = {"at": NOW - 60, "by": "ann", "old": "none", "new": "current"} | dates | changes
    return Event(command=command, kid=members["kid"], **values)


def branches(main: list[Event], *others: list[Event]) -> Branches:
    """A history, and other branches that left it at its first line."""
    log = history.append(b"", main)
    start = log.splitlines(keepends=True)[0]
    tails = [history.append(start, other).splitlines() for other in others]
    return [Branch(tuple(log.splitlines())), *(Branch(tuple(tail[1:]), tuple(tail[:1])) for tail in tails)]


def files(*versions: dict[str, Any]) -> dict[str, bytes | str]:
    return {f"{members['kid']}.json": json.dumps(members).encode() for members in versions}


def conflict(ours: dict[str, Any] | str, theirs: dict[str, Any] | str) -> bytes:
    one, two = (side if isinstance(side, str) else json.dumps(side) for side in (ours, theirs))
    return f"<<<<<<< HEAD\n{one}\n||||||| base\n=======\n{two}\n>>>>>>> side\n".encode()


@pytest.mark.parametrize("content", ["unreadable", b"{", b"{}", conflict("{", "[]")])
def test_a_file_without_a_usable_version_is_an_error(first, content):
    name = f"{first['kid']}.json"
    with pytest.raises(KeyFileError, match=rf"(?m)^{name}: has no usable version$") as caught:
        merge.resolve({name: content}, branches([event(first)]), NOW, WINDOW)
    assert caught.value.hint == f"repair public/{name}, then merge again"


@pytest.mark.parametrize("ours_is_usable", [True, False])
def test_the_version_that_is_usable_is_kept(first, ours_is_usable):
    sides = (first, "{") if ours_is_usable else ("{", first)
    found = merge.resolve({f"{first['kid']}.json": conflict(*sides)}, branches([event(first)]), NOW, WINDOW)
    assert found == {first["kid"]: first}


def test_a_key_that_only_the_other_history_revoked_is_revoked(first, second):
    revoke = event(first | {"revoked": REVOKED}, "revoke", old="current", new="revoked", reason="leaked")
    found = merge.resolve(files(first, second), branches([event(first), event(second)], [revoke]), NOW, WINDOW)
    assert found == {first["kid"]: first | {"revoked": REVOKED}, second["kid"]: second}


def test_a_key_that_both_branches_revoked_was_revoked_at_the_earlier_time(first):
    later = {"revoked_at": NOW, "reason": "lost"}
    content = conflict(first | {"revoked": later}, first | {"revoked": REVOKED})
    found = merge.resolve({f"{first['kid']}.json": content}, branches([event(first)]), NOW, WINDOW)
    assert found == {first["kid"]: first | {"revoked": REVOKED}}


@pytest.mark.parametrize("here", [True, False])
def test_a_key_that_either_branch_removed_is_removed(first, second, here):
    kept = first | {"exp": second["nbf"] + WINDOW.overlap_s}
    published = event(second, "rotate", new="pending")
    removed = event(second, "cancel", old="pending", new="gone")
    history_ = branches([event(kept), published, removed]) if here else branches([event(kept), published], [removed])
    assert merge.resolve(files(kept, second), history_, NOW, WINDOW) == {first["kid"]: kept, second["kid"]: None}


def test_a_key_that_one_branch_revoked_and_the_other_removed_is_kept_as_revoked(first, second):
    revoked = second | {"revoked": REVOKED}
    removed = event(second, "cancel", old="pending", new="gone")
    history_ = branches([event(first)], [removed])
    assert merge.resolve(files(first, revoked), history_, NOW, WINDOW) == {first["kid"]: first, second["kid"]: revoked}


def test_two_ends_of_the_last_key_are_none(first):
    content = conflict(first | {"exp": NOW + 100}, first | {"exp": NOW + 200})
    found = merge.resolve({f"{first['kid']}.json": content}, branches([event(first)]), NOW, WINDOW)
    assert found == {first["kid"]: first}


def test_two_ends_of_a_key_with_a_successor_are_computed_again(first, second):
    name = f"{first['kid']}.json"
    content = conflict(first | {"exp": NOW + 100}, first)
    found = merge.resolve({name: content} | files(second), branches([event(first), event(second)]), NOW, WINDOW)
    assert found == {first["kid"]: first | {"exp": second["nbf"] + WINDOW.overlap_s}, second["kid"]: second}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"revoked": REVOKED}, "revoked"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW + 1}, "current"),
        ({"nbf": NOW + 1}, "pending"),
    ],
)
def test_the_line_of_a_merge_has_the_state_before_it(first, changes, state):
    known = first | changes
    found = branches([event(known)], [event(known, "cancel", old=state, new="gone")])
    (line,) = merge.events(found, {known["kid"]: None}, now=NOW)
    assert (line.command, line.kid, line.old, line.new, line.by, line.at) == (
        "merge", known["kid"], state, "gone", user_name(), NOW,
    )  # fmt: skip
    assert line.merged == tuple(text.decode() for text in found[1].lines)


def test_a_branch_without_changes_has_no_line(first):
    assert merge.events(branches([event(first)]), {first["kid"]: first}, now=NOW) == []


def test_a_history_without_lines_has_no_branches():
    assert read_branches(b"\n<<<<<<< HEAD\n") == [Branch(())]


def test_a_line_that_is_no_event_is_an_error(first):
    with pytest.raises(ConfigError, match=r"(?m)^a line is not an event \(found b'\{\}'\)$"):
        read_branches(history.append(b"", [event(first)]) + b"{}\n")


def test_a_line_that_continues_no_other_is_an_error_with_its_beginning(first):
    log = history.append(b"", [event(first), event(first, at=NOW), event(first, at=NOW + 1)])
    start, _, last = log.splitlines(keepends=True)
    with pytest.raises(ConfigError) as caught:
        read_branches(start + last)
    found = f"(found {last[:60]!r})"
    assert str(caught.value) == f"a line continues none of the others {found}: a line was changed or removed"
