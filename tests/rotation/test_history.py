"""The audit trail: what it holds, and that a changed line shows."""

import json

import pytest

from verifier.rotation import history
from verifier.rotation.history import Event

FIRST = Event(at=1, by="ann", command="generate", kid="a", old="none", new="current", nbf=1)
SECOND = Event(at=2, by="bob", command="rotate", kid="b", old="none", new="pending", nbf=9)
THIRD = Event(at=2, by="bob", command="rotate", kid="a", old="current", new="current", nbf=1, exp=19)


@pytest.fixture
def trail() -> bytes:
    return history.append(history.append(b"", [FIRST]), [SECOND, THIRD])


def test_what_was_appended_is_read(trail):
    assert history.read(trail) == ([FIRST, SECOND, THIRD], [])
    assert history.read(b"") == ([], [])


def test_each_line_carries_the_digest_of_the_line_before(trail):
    import hashlib

    lines = trail.splitlines()
    previous = [json.loads(line)["previous"] for line in lines]
    assert previous == ["", *(hashlib.sha256(line).hexdigest() for line in lines[:-1])]


def test_a_changed_line_shows_in_the_next(trail):
    assert history.read(trail.replace(b'"by": "ann"', b'"by": "eve"'))[1] == [
        "line 2 does not continue line 1: a line was changed or removed"
    ]


def test_a_removed_line_shows(trail):
    lines = trail.splitlines(keepends=True)
    assert history.read(lines[0] + lines[2])[1] == ["line 2 does not continue line 1: a line was changed or removed"]
    assert history.read(lines[1] + lines[2])[1] == ["line 1 does not continue line 0: a line was changed or removed"]


@pytest.mark.parametrize("line", [b"{", b"{}", b"[]", b'{"previous": ""}', b'{"previous": "", "x": 1}'])
def test_a_line_that_is_no_event_shows(line):
    assert history.read(line) == ([], ["line 1 is not an event"])


@pytest.mark.parametrize(
    ("name", "value"), [("at", "1"), ("by", 1), ("exp", "9"), ("reason", None), ("at", -1), ("nbf", 10**11 + 1)]
)
def test_a_member_of_another_kind_is_no_event(name, value):
    line = json.loads(history.append(b"", [FIRST])) | {name: value}
    assert history.read(json.dumps(line).encode()) == ([], ["line 1 is not an event"])


def test_the_outcome_is_what_the_files_hold_now(trail):
    gone = Event(at=3, by="ann", command="cancel", kid="b", old="pending", new="gone")
    assert history.replay([FIRST, SECOND, THIRD]) == {
        "a": {"nbf": 1, "exp": 19, "revoked_at": None},
        "b": {"nbf": 9, "exp": None, "revoked_at": None},
    }
    assert history.replay([FIRST, SECOND, THIRD, gone]).keys() == {"a"}
