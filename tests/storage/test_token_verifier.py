"""The public way to verify: what it accepts, when it reads keys again, and what it refuses to be made of."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from freezegun import freeze_time

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier import ConfigError, InvalidToken, KeyFileError, Player, Reason, TokenIssuer, TokenVerifier


@pytest.fixture
def clock():
    with freeze_time(datetime.fromtimestamp(NOW, UTC)) as clock:
        yield clock


@pytest.fixture
def verifier(keys: Path, clock) -> TokenVerifier:
    return TokenVerifier.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)


def reason(verifier: TokenVerifier, token: str) -> Reason:
    with pytest.raises(InvalidToken) as error:
        verifier.verify(token)
    return error.value.reason


def test_a_token_of_the_issuer_gives_its_player(verifier, keys):
    issuer = TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)
    assert verifier.verify(issuer.issue("42", email="ann@example.com")) == Player("42", "ann@example.com")


def test_a_rejection_carries_its_reason(verifier, issue):
    assert verifier.verify(issue()) == Player("42", "ann@example.com", "ann")
    assert reason(verifier, issue(iss="https://other.example")) is Reason.ISS_UNEXPECTED
    assert reason(verifier, issue(iat=NOW - 330, exp=NOW - 30)) is Reason.TOKEN_EXPIRED


def test_leeway_and_lifetime_are_its_own(keys, clock, issue):
    strict = TokenVerifier.from_directory(
        keys, issuer=ISSUER, application_id=APPLICATION_ID, leeway_s=0, max_lifetime_s=60
    )
    assert strict.verify(issue(exp=NOW + 60)).id == "42"
    assert reason(strict, issue(exp=NOW + 61)) is Reason.LIFETIME_TOO_LONG
    assert reason(strict, issue(iat=NOW - 60, exp=NOW)) is Reason.TOKEN_EXPIRED


def test_a_revocation_takes_effect_within_a_second_and_is_final(verifier, issue, keys, pairs, clock):
    path = keys / "public" / f"{pairs['ES256'].kid}.json"
    published = json.loads(path.read_bytes())
    assert verifier.verify(issue()).id == "42"
    path.write_text(json.dumps(published | {"revoked": {"revoked_at": NOW, "reason": "test"}}))
    clock.tick(0.9)
    assert verifier.verify(issue()).id == "42"
    clock.tick(0.1)
    assert reason(verifier, issue()) is Reason.KEY_REVOKED
    path.write_text(json.dumps(published))
    clock.tick(1)
    assert reason(verifier, issue()) is Reason.KEY_REVOKED


def test_a_new_key_is_accepted_within_a_second(verifier, issue, keys, pairs, clock):
    path = keys / "public" / f"{pairs['EdDSA'].kid}.json"
    content = path.read_bytes()
    path.unlink()
    clock.tick(1)
    assert reason(verifier, issue("EdDSA")) is Reason.UNKNOWN_KEY
    path.write_bytes(content)
    clock.tick(1)
    assert verifier.verify(issue("EdDSA")).id == "42"


def test_a_directory_without_keys_or_with_an_invalid_file_is_refused(tmp_path, keys):
    with pytest.raises(KeyFileError):
        TokenVerifier.from_directory(tmp_path / "none", issuer=ISSUER, application_id=APPLICATION_ID)
    (keys / "public" / "x.json").write_text("{")
    with pytest.raises(KeyFileError, match=r"x\.json"):
        TokenVerifier.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)


@pytest.mark.parametrize(
    "changes",
    [{"issuer": ""}, {"application_id": ""}, {"leeway_s": -1}, {"max_lifetime_s": 0}],
    ids=lambda changes: next(iter(changes)),
)
def test_misuse_fails_in_the_constructor(keys, changes):
    arguments = {"issuer": ISSUER, "application_id": APPLICATION_ID} | changes
    with pytest.raises(ConfigError):
        TokenVerifier.from_directory(keys, **arguments)


def test_a_token_of_another_key_is_rejected(verifier, pairs, claims):
    unknown = forge.Pair("ES256", forge_key())
    header = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    assert reason(verifier, forge.token(unknown, header, claims)) is Reason.SIGNATURE_INVALID


def forge_key():
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("name", ["issuer", "application_id"])
def test_a_name_in_quotes_fails_in_the_constructor(keys, name):
    arguments = {"issuer": ISSUER, "application_id": APPLICATION_ID} | {name: '"x"'}
    with pytest.raises(ConfigError, match=f"(?m)^{name} is in quotes$"):
        TokenVerifier.from_directory(keys, **arguments)
