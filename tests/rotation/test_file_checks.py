"""That the secrets of applications are those that commands set."""

from dataclasses import replace

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.core.applications import Applications, Secret
from verifier.rotation import file_checks, history
from verifier.rotation.history import SecretEvent
from verifier.rotation.secret_changes import add_secret


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
