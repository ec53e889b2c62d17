"""What keeps a command from planning: the history and the files are not as commands leave them."""

import pytest

from tests.conftest import NOW
from verifier.rotation import history, preconditions
from verifier.rotation.history import Event
from verifier.storage.key_directory import KeyDirectory


def event(kid: str, at: int, **changes: str) -> Event:
    return Event(at=at, by="ann", command="generate", kid=kid, **({"old": "none", "new": "current"} | changes))


@pytest.mark.parametrize(("broken", "more"), [(1, ""), (2, " and 1 more"), (3, " and 2 more")])
def test_the_first_broken_line_is_named_and_the_rest_are_counted(keys, broken, more):
    log = history.append(b"", [event("a", NOW)]) + b"{}\n" * broken
    directory = KeyDirectory(keys / "public")
    directory.load()
    [obstacle] = preconditions.obstacles(directory, keys / "history.jsonl", log, NOW)
    assert obstacle.found == f"{keys / 'history.jsonl'}: line 2 is not an event{more}"
    assert obstacle.remediation == "restore the file from version control"
