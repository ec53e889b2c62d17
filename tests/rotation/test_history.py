"""The audit trail: what it holds, and that a changed line shows."""

import json

import pytest

from verifier.rotation import history
from verifier.rotation.history import Anchor, Confirmation, Event, History, SecretEvent

FIRST = Event(at=1, by="ann", command="generate", kid="a", old="none", new="current", nbf=1)
SECOND = Event(at=2, by="bob", command="rotate", kid="b", old="none", new="pending", nbf=9)
THIRD = Event(at=2, by="bob", command="rotate", kid="a", old="current", new="current", nbf=1, exp=19)


@pytest.fixture
def trail() -> bytes:
    return history.append(history.append(b"", [FIRST]), [SECOND, THIRD])


def test_what_was_appended_is_read(trail):
    assert history.load(trail) == History((FIRST, SECOND, THIRD), ())
    assert history.load(b"") == History((), ())


@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
@pytest.mark.parametrize("last", [b"", b"end"])
def test_what_was_there_stays_as_it_is_whatever_its_line_ends_are(trail, ends, last):
    before = trail.replace(b"\n", ends)
    before = before.removesuffix(ends) if last else before
    longer = history.append(before, [FIRST])
    assert longer.startswith(before)
    assert history.load(longer) == History((FIRST, SECOND, THIRD, FIRST), ())
    assert history.append(before, []) == before or last


def test_each_line_carries_the_digest_of_the_line_before(trail):
    import hashlib

    lines = trail.splitlines()
    previous = [json.loads(line)["previous"] for line in lines]
    assert previous == ["", *(hashlib.sha256(line).hexdigest() for line in lines[:-1])]


def test_a_changed_line_shows_in_the_next(trail):
    changed = history.load(trail.replace(b'"by": "ann"', b'"by": "eve"'))
    assert changed.problems == ("line 2 does not continue line 1: a line was changed or removed",)


def test_a_removed_line_shows(trail):
    lines = trail.splitlines(keepends=True)
    without_second, without_first = history.load(lines[0] + lines[2]), history.load(lines[1] + lines[2])
    assert without_second.problems == ("line 2 does not continue line 1: a line was changed or removed",)
    assert without_first.problems == ("line 1 does not continue line 0: a line was changed or removed",)


@pytest.mark.parametrize("line", [b"{", b"{}", b"[]", b'{"previous": ""}', b'{"previous": "", "x": 1}'])
def test_a_line_that_is_no_event_shows(line):
    assert history.load(line) == History((None,), ("line 1 is not an event",))


@pytest.mark.parametrize(
    ("name", "value"), [("at", "1"), ("by", 1), ("exp", "9"), ("reason", None), ("at", -1), ("nbf", 10**11 + 1)]
)
def test_a_member_of_another_kind_is_no_event(name, value):
    line = json.loads(history.append(b"", [FIRST])) | {name: value}
    assert history.load(json.dumps(line).encode()) == History((None,), ("line 1 is not an event",))


def test_the_outcome_is_what_the_files_hold_now(trail):
    gone = Event(at=3, by="ann", command="cancel", kid="b", old="pending", new="gone")
    found = history.replay([FIRST, SECOND, THIRD])
    assert {kid: (last.nbf, last.exp, last.revoked_at) for kid, last in found.items()} == {
        "a": (1, 19, None),
        "b": (9, None, None),
    }
    assert history.replay([FIRST, SECOND, THIRD, gone]).keys() == {"a"}


RECORDED = Event(
    at=3, by="ann", command="rotate", kid="c", old="none", new="pending", iat=3, alg="ES256", max_lifetime_s=300,
    leeway_s=30, lead_s=3600, force=False, version="1", origin="a" * 64, note="from the HSM",
)  # fmt: skip
SECRET = SecretEvent(
    at=4, by="ann", command="add", application="app", slot=1, sha256="ab" * 6, old="none", new="active"
)
CONFIRMED = Confirmation(
    at=5, by="ann", command="confirm", replica="http://a", key_set_digest="d", confirmed=True, clock_offset_s=-3
)


def test_lines_of_every_kind_are_read_as_they_were_written(trail):
    log = history.append(trail, [RECORDED, SECRET, CONFIRMED])
    found = history.load(log)
    assert found == History((FIRST, SECOND, THIRD, RECORDED, SECRET, CONFIRMED), ())
    assert (found.events, found.secrets, found.confirmations) == (
        (FIRST, SECOND, THIRD, RECORDED),
        (SECRET,),
        (CONFIRMED,),
    )


def test_a_line_of_an_older_version_has_no_settings(trail):
    members = json.loads(trail.splitlines()[0])
    assert members.keys() == {
        "at", "by", "command", "kid", "old", "new", "reason", "nbf", "exp", "previous_exp", "revoked_at", "previous",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("event", "name", "value"),
    [
        (RECORDED, "force", 1),
        (RECORDED, "leeway_s", True),
        (RECORDED, "iat", -1),
        (RECORDED, "merged", [1]),
        (RECORDED, "merged", "x"),
        (SECRET, "slot", "1"),
        (CONFIRMED, "confirmed", 1),
        (CONFIRMED, "clock_offset_s", -(10**12)),
    ],
)
def test_an_optional_member_of_another_kind_is_no_event(event, name, value):
    line = json.loads(history.append(b"", [event])) | {name: value}
    assert history.load(json.dumps(line).encode()) == History((None,), ("line 1 is not an event",))


def test_a_file_in_another_encoding_has_few_problems(trail):
    found = history.load(trail.decode().encode("utf-16") * 10)
    assert len(found.problems) == 21
    assert found.problems[-1].endswith("more lines are not events or do not continue")


def test_an_anchor_fixes_every_line_before_it(trail):
    import hashlib

    anchor = Anchor.of(trail)
    assert anchor == Anchor(3, hashlib.sha256(trail.splitlines()[-1]).hexdigest()) == Anchor.parse(f" {anchor}\n")
    assert anchor.broken_by(trail) == anchor.broken_by(history.append(trail, [RECORDED])) == ""
    short = b"".join(trail.splitlines(keepends=True)[:2])
    assert anchor.broken_by(short) == "the history has 2 lines, the anchor 3: lines were removed"
    rewritten = history.append(b"", [FIRST, SECOND, RECORDED])
    assert anchor.broken_by(rewritten) == (
        f"line 3 has digest {Anchor.of(rewritten).digest}, the anchor {anchor.digest}: the history was rewritten"
    )
    assert Anchor.of(b"").broken_by(trail) == ""


@pytest.mark.parametrize("text", ["", "3", "3:ab", "-1:" + "0" * 64, "3:" + "g" * 64, "٣:" + "0" * 64])
def test_what_is_no_anchor_is_refused(text):
    with pytest.raises(ValueError, match="expected N:DIGEST"):
        Anchor.parse(text)


def test_merged_lines_come_before_the_line_that_merged_them(trail):
    inner = history.append(b"", [FIRST]).decode().strip()
    middle = Event(at=2, by="bob", command="merge", kid="b", old="none", new="current", merged=(inner,))
    line = history.append(b"", [middle]).decode().strip()
    outer = Event(at=3, by="bob", command="merge", kid="c", old="none", new="current", merged=(line,))
    log = history.append(trail, [outer])
    assert history.load(log).events == (FIRST, SECOND, THIRD, outer)
    assert list(history.merged_events([outer])) == [FIRST, middle, outer]
