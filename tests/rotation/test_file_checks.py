"""That the secrets of applications are those that commands set."""

from dataclasses import replace

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.core.applications import Applications, Secret
from verifier.rotation import file_checks, history
from verifier.rotation.history import SecretEvent
from verifier.rotation.secret_changes import add_secret
from verifier.rotation.violation import Violation


@pytest.mark.parametrize("removed", [False, True])
def test_a_secret_that_a_command_removed_is_no_longer_expected(past, removed):
    past.generate("ES256", NOW)
    secrets = [Secret.of(f"secret number {number} of the application") for number in (1, 2)]
    first, second = (secret.digest.hex()[:12] for secret in secrets)
    added = [
        SecretEvent(at=NOW, by="ann", command="add", application="app", slot=1, sha256=digest, old="none", new="active")
        for digest in (first, second)
    ]
    lines = [*added, replace(added[0], command="remove", old="active", new="gone")] if removed else added
    state = replace(
        past.state(),
        applications=add_secret(Applications(), "app", secrets[1]),
        history=history.load(history.append(b"", lines)),
    )
    lost = f"application app has lost the secret {first}..., which the history records"
    assert list(file_checks.secrets_agree(state)) == ([] if removed else [lost])


def line(digest: str, application: str = "app", *, removed: bool = False, at: int = NOW) -> SecretEvent:
    command, old, new = ("remove-secret", "active", "gone") if removed else ("add", "none", "active")
    return SecretEvent(
        at=at, by="ann", command=command, application=application, slot=1, sha256=digest, old=old, new=new
    )


def test_an_application_that_no_command_added_is_found_where_commands_added_others(past):
    past.generate("ES256", NOW)
    mine, other = (Secret.of(f"secret number {number} of the application") for number in (1, 2))
    known = add_secret(add_secret(Applications(), "app", mine), "other", other)
    state = replace(past.state(), applications=known)
    assert list(file_checks.secrets_agree(state)) == []  # none is recorded, as by an older version
    recorded = history.load(history.append(b"", [line(mine.digest.hex()[:12])]))
    (found,) = file_checks.secrets_agree(replace(state, history=recorded))
    assert found == Violation(
        f"application other has the secret {other.digest.hex()[:12]}..., which no command added",
        "if the application is not yours, remove it from the file; otherwise replace the secret: "
        "verifier applications rotate-secret, then remove-secret --slot 1, of other",
    )


def test_a_secret_that_was_given_up_and_is_in_use_again_is_found(past):
    past.generate("ES256", NOW)
    old, new = (Secret.of(f"secret number {number} of the application") for number in (1, 2))
    digest = old.digest.hex()[:12]
    recorded = history.load(history.append(b"", [line(digest, "other", removed=True), line(digest)]))
    state = replace(past.state(), applications=add_secret(Applications(), "app", new), history=recorded)
    assert list(file_checks.shared_secrets(state)) == []
    assert list(file_checks.shared_secrets(replace(state, applications=add_secret(Applications(), "app", old)))) == [
        Violation(
            f"application app has a secret that other gave up 2027-01-15 08:00:00 UTC ({digest}...)",
            "replace it by a new random one: verifier applications rotate-secret app",
        )
    ]
