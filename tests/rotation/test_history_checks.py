"""That the history and the files agree, also where the history is an older version's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.rotation import history, history_checks
from verifier.rotation.history import Anchor, Confirmation, Event, History, Line, SecretEvent
from verifier.rotation.inventory import Inventory
from verifier.rotation.violation import Violation
from verifier.rotation.witness import Commit

NEWER = "line 1 is of 2027-01-15 08:00:00 UTC, after the commit aaaaaaaaaaaa that added it"


def older(state: Inventory, **changes: object) -> Inventory:
    """The same inventory, with the lines as older versions wrote them."""
    lines = [replace(event, iat=None, **changes) for event in state.history.events]
    return replace(state, history=history.load(history.append(b"", lines)))


def test_a_line_without_iat_says_that_the_key_was_made_at_its_time(past):
    past.generate("ES256", NOW)
    state = past.state()
    assert list(history_checks.agrees(older(state))) == []
    kid = past.kids["ES256"]
    assert list(history_checks.agrees(older(state, at=NOW + 1))) == [
        f"{kid}: iat is 2027-01-15 08:00:00 UTC in the file, 2027-01-15 08:00:01 UTC in the history"
    ]


def test_a_line_without_iat_of_another_command_says_nothing_of_when_the_key_was_made(past):
    past.generate("ES256", NOW)
    assert list(history_checks.agrees(older(past.state(), at=NOW + 1, command="edit"))) == []


def test_a_line_that_is_no_event_has_no_time(past):
    past.generate("ES256", NOW)
    state = past.state()
    (event,) = state.history.events
    lines = (None, replace(event, at=NOW + 61), event)
    state = replace(state, history=History(lines, ()))
    assert list(history_checks.times(state)) == [
        "line 2 is of 2027-01-15 08:01:01 UTC, in the future",
        "line 3 is of 2027-01-15 08:00:00 UTC, before the line above it (2027-01-15 08:01:01 UTC)",
    ]


@pytest.mark.parametrize(
    ("commit", "required", "text"),
    [
        (Commit("a" * 40, "N", "", "", ""), False, []),
        (Commit("a" * 40, "G", "", "", ""), True, []),
        (Commit("a" * 40, "B", "", "", ""), False, ["line 1 was added by commit aaaaaaaaaaaa with a bad signature"]),
        (
            Commit("a" * 40, "N", "", "", ""),
            True,
            ["line 1 was added by commit aaaaaaaaaaaa, which is not signed"],
        ),
        (
            Commit("a" * 40, "E", "", "", ""),
            True,
            [
                "line 1 was added by commit aaaaaaaaaaaa, which is signed by a key that is not known here, "
                "so that the signature cannot be checked"
            ],
        ),
        (
            Commit("a" * 40, "?", "", "", ""),
            True,
            ["line 1 was added by commit aaaaaaaaaaaa, which is signed, with a result that git calls '?'"],
        ),
        (None, True, ["line 1 is not committed"]),
        (None, False, []),
    ],
)
def test_a_line_without_a_valid_signature_is_found(commit, required, text):
    witness = SimpleNamespace(present=True, lines=(commit,))
    inventory = SimpleNamespace(require_signed=required, witness=witness, is_new=lambda number: True)
    assert list(history_checks.signatures(inventory)) == text


@pytest.mark.parametrize(
    ("at", "since", "text"),
    [
        ("2027-01-15T08:00:00+00:00", None, []),
        ("2027-01-15T06:59:00-01:00", None, []),
        (
            "2027-01-15T07:58:59Z",
            None,
            [f"{NEWER} (2027-01-15T07:58:59Z)"],
        ),
        ("2027-01-15T07:58:59Z", Anchor(1, ""), []),  # of an earlier audit
        ("", None, [f"{NEWER} ()"]),
    ],
)
def test_a_line_that_is_newer_than_its_commit_is_found(past, at, since, text):
    past.generate("ES256", NOW)
    state = past.state()
    commits = (Commit("a" * 40, "N", at, "", ""), None)
    state = replace(state, witness=replace(state.witness, lines=commits), since=since)
    assert list(history_checks.times(state)) == text


def found(state: Inventory, *lines: Line) -> list[str]:
    """What the check of transitions says of these lines, after those of the inventory."""
    before = tuple(state.history.lines)
    checked = history_checks.transitions(replace(state, history=History((*before, *lines), ())))
    return [violation.found if isinstance(violation, Violation) else violation for violation in checked]


def secret(command: str, slot: int, sha256: str, old: str, new: str) -> SecretEvent:
    return SecretEvent(at=NOW, by="ann", command=command, application="app", slot=slot, sha256=sha256, old=old, new=new)


def added(sha256: str, slot: int, command: str = "rotate-secret", old: str = "none") -> SecretEvent:
    return secret(command, slot, sha256, old, "active")


def removed(sha256: str, slot: int, old: str = "active") -> SecretEvent:
    return secret("remove-secret", slot, sha256, old, "gone")


FIRST, SECOND = added("a", 1, "add"), added("b", 2)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((FIRST, SECOND, removed("a", 1)), ""),
        ((FIRST, added("b", 2, "add"), removed("b", 2)), ""),
        ((removed("x", 1), added("a", 2)), ""),
        ((FIRST, added("b", 1)), "b... is added in slot 1, expected 2 of 2"),
        ((FIRST, SECOND, added("c", 3)), "c... is added in slot 3, expected 3 of 2"),
        ((FIRST, added("a", 2)), "a... is added by rotate-secret a second time"),
        ((FIRST, added("b", 2, "generate")), "b... is added by generate"),
        ((FIRST, removed("b", 1)), "b... is removed from slot 1, which does not have it"),
        ((FIRST, SECOND, removed("a", 2)), "a... is removed from slot 2, which does not have it"),
        ((FIRST, added("b", 1, old="active")), "b... goes from active to active by rotate-secret"),
        ((FIRST, removed("a", 1, "none")), "a... goes from none to gone by remove-secret"),
    ],
)  # fmt: skip
def test_a_change_of_a_secret_that_no_command_makes_is_found(past, lines, text):
    past.generate("ES256", NOW)
    expected = text and text.replace("... ", "... of application app ", 1)
    assert found(past.state(), *lines) == ([f"line {len(lines) + 1}: the secret {expected}"] if text else [])


def test_the_slots_of_an_application_are_not_known_after_a_merge(past):
    past.generate("ES256", NOW)
    (event,) = past.state().history.events
    text = history.append(b"", [SECOND]).decode().strip()
    merged = replace(event, command="merge", old="current", merged=(text,))
    late = added("c", 1)
    assert found(past.state(), FIRST, merged, late) == []
    assert found(past.state(), FIRST, late) != []


def confirmation(state: Inventory, digest: str = "") -> Confirmation:
    digest = digest or state.keyring.digest
    return Confirmation(at=NOW, by="ann", command="confirm", replica="http://a", key_set_digest=digest, confirmed=True)


def test_a_confirmation_of_other_keys_than_the_history_had_is_found(past):
    past.generate("ES256", NOW)
    first = past.state()
    past.rotate("EdDSA", NOW + 10)
    state = past.state()
    right, early, forged = confirmation(state), confirmation(first), confirmation(state, "ab" * 32)
    assert found(state, right, replace(forged, confirmed=False)) == []
    expected = state.keyring.digest[:12]
    for wrong in (early, forged):
        keys = f"the keys {wrong.key_set_digest[:12]}..., the history had {expected}... then"
        assert found(state, wrong) == [f"line 4 confirms that http://a had {keys}"]
    assert found(replace(state, since=Anchor(4, "")), forged) == []


def test_a_confirmation_is_not_compared_where_the_keys_of_its_time_are_not_recorded(past):
    past.generate("ES256", NOW)
    state = past.state()
    (event,) = state.history.events
    forged = confirmation(state, "ab" * 32)
    older = replace(event, command="rotate", old="current")  # the first line of a key of an older history
    for lines, expected in (((forged, older), 0), ((older, forged), 1), ((forged,), 0)):
        checked = history_checks.transitions(replace(state, history=History(lines, ())))
        assert len(list(checked)) == expected


def removal(event: Event, command: str, at: int) -> Event:
    return replace(event, at=at, command=command, old="current", new="gone", nbf=None, exp=None, revoked_at=None)


@pytest.mark.parametrize("command", ["prune", "cancel", "revoke", "merge"])
def test_the_removal_of_a_key_that_verified_is_found(past, command):
    past.generate("ES256", NOW)
    past.rotate("EdDSA", NOW + 10, lead_s=600)
    state = past.state()
    current, pending, ending = state.history.events[0], *state.history.events[1:]
    text = [f"line 4: {current.kid} is removed by {command}, although it verified"]
    expected = [] if command in ("revoke", "merge") else text
    assert found(state, removal(current, command, NOW + 20)) == expected
    assert found(state, removal(current, command, ending.exp or 0)) == []
    assert found(state, removal(pending, command, NOW + 20)) == (
        [text[0].replace(current.kid, pending.kid)] if command == "prune" else []
    )
