"""That the history and the files agree, also where the history is an older version's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.rotation import history, history_checks
from verifier.rotation.history import History
from verifier.rotation.inventory import Inventory
from verifier.rotation.witness import Commit


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
