"""Issuing tokens in a game backend."""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import threading
import warnings
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from freezegun import freeze_time

import verifier
from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier import ConfigError, IssueError, TokenIssuer, TokenVerifier, errors
from verifier.core import rules, times, tokens
from verifier.signing import issuer
from verifier.signing.current_key import CurrentKey
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory


def utc(instant):
    return datetime.fromtimestamp(instant, UTC)


@pytest.fixture
def clock():
    with freeze_time(utc(NOW), ignore=["_pytest.timing"]) as clock:
        yield clock


class Hsm:
    """A key that stays where it is: `kid`, `alg` and `sign`, and nothing else to hold on to."""

    def __init__(self, pair, sign=None):
        self.kid, self.alg = pair.kid, pair.alg
        self.__sign = sign or pair.sign

    def sign(self, signing_input):
        return self.__sign(signing_input)


@pytest.fixture
def hsm(pairs):
    return lambda alg="ES256", sign=None, **changes: TokenIssuer(
        Hsm(pairs[alg], sign), **({"issuer": ISSUER, "application_id": APPLICATION_ID} | changes)
    )


@pytest.fixture
def directory(keys, clock):
    return TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)


def kid_of(token):
    return forge.parse(token).header["kid"]


def change(keys, kid, **changes):
    path = keys / "public" / f"{kid}.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


# --- the package


def test_the_package_offers_the_issuer_and_its_errors():
    assert verifier.TokenIssuer is issuer.TokenIssuer
    assert (verifier.IssueError, verifier.ConfigError) == (errors.IssueError, errors.ConfigError)
    assert re.fullmatch(r"\d+\.\d+\.\d+", verifier.__version__)


def test_the_package_offers_nothing_else():
    with pytest.raises(AttributeError, match=r"^module 'verifier' has no attribute 'Verifier'$"):
        verifier.Verifier  # noqa: B018


# --- what is issued


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_an_issued_token_is_verified_and_gives_its_player(hsm, verify, alg):
    token = hsm(alg).issue("42", email="ann@example.com", username="ann")
    assert verify(token) == tokens.Player("42", "ann@example.com", "ann")


def test_an_issued_token_contains_this_and_nothing_more(directory, pairs):
    found = forge.parse(directory.issue("42", email="ann@example.com", username="ann"))
    assert found.header == {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    jti = found.claims.pop("jti")
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", jti)
    assert found.claims == {
        "iss": ISSUER,
        "aud": APPLICATION_ID,
        "client_id": APPLICATION_ID,
        "sub": "42",
        "iat": NOW,
        "exp": NOW + 120,
        "email": "ann@example.com",
        "username": "ann",
    }


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_a_player_did_not_agree_to_share_is_not_in_the_token(directory, nothing):
    claims = forge.parse(directory.issue("42", email=nothing, username=nothing)).claims
    assert set(claims) == {"iss", "aud", "client_id", "sub", "iat", "exp", "jti"}


def test_no_two_tokens_share_an_id(directory):
    assert len({forge.parse(directory.issue("42")).claims["jti"] for _ in range(50)}) == 50


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("lifetime_s", [1, 300])
def test_a_lifetime_from_1_to_300_seconds_is_issued(hsm, verify, keys, lifetime_s):
    of_directory = TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID, lifetime_s=lifetime_s)
    for token in (hsm(lifetime_s=lifetime_s).issue("42"), of_directory.issue("42")):
        assert forge.parse(token).claims["exp"] == NOW + lifetime_s
        assert verify(token).id == "42"


# --- what is not issued


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("changes", "player", "says"),
    [
        pytest.param({}, {"player_id": ""}, "sub must be a non-empty string", id="player-empty"),
        pytest.param({}, {"player_id": 42}, "sub must be a string, not a number", id="player-number"),
        pytest.param({}, {"player_id": None}, "sub must be a non-empty string", id="player-none"),
        pytest.param({}, {"player_id": "4" * 256}, "sub is longer than 255 characters", id="player-256"),
        pytest.param({}, {"email": "a" * 321}, "email is longer than 320 characters", id="email-321"),
        pytest.param({}, {"username": "a" * 256}, "username is longer than 255 characters", id="username-256"),
        pytest.param({}, {"email": 1}, "email must be a string", id="email-number"),
    ],
)
def test_a_token_that_the_verifier_would_reject_is_not_issued(hsm, verify, changes, player, says):
    assert verify(hsm().issue("42")).id == "42"
    with pytest.raises(IssueError, match=f"^{re.escape(says)}$"):
        hsm(**changes).issue(**({"player_id": "42"} | player))


@pytest.mark.parametrize("lifetime_s", [-1, 0, 301])
def test_a_lifetime_that_the_verifier_would_reject_is_refused_at_once(hsm, keys, clock, lifetime_s):
    says = f"^the lifetime must be from 1 s to the maximum \\(found {lifetime_s} s, maximum 300 s\\)$"
    with pytest.raises(IssueError, match=says):
        hsm(lifetime_s=lifetime_s)
    with pytest.raises(IssueError, match=says):
        TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID, lifetime_s=lifetime_s)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("max_lifetime_s", "expected"), [(119, 119), (120, 120), (121, 120), (300, 120)])
def test_the_default_lifetime_is_120_seconds_or_the_maximum(hsm, max_lifetime_s, expected):
    claims = forge.parse(hsm(max_lifetime_s=max_lifetime_s).issue("42")).claims
    assert claims["exp"] - claims["iat"] == expected


@pytest.mark.usefixtures("clock")
def test_the_longest_texts_are_issued(hsm, verify):
    longest = tokens.Player("4" * 255, "a" * 320, "a" * 255)
    assert verify(hsm().issue(longest.id, email=longest.email, username=longest.username)) == longest


@pytest.mark.parametrize("changes", [{"issuer": ""}, {"application_id": ""}], ids=["issuer", "application-id"])
def test_an_empty_issuer_or_application_id_is_refused_at_once(hsm, keys, clock, changes):
    says = "^issuer and application_id must not be empty$"
    with pytest.raises(IssueError, match=says):
        hsm(**changes)
    with pytest.raises(IssueError, match=says):
        TokenIssuer.from_directory(keys, **({"issuer": ISSUER, "application_id": APPLICATION_ID} | changes))


@pytest.mark.parametrize("name", ["issuer", "application_id"])
@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ("x ", "begins or ends with a space"),
        ("x\r", "contains an unprintable character (U+000D at position 2)"),
        ("\ufeffx", "contains an unprintable character (U+FEFF at position 1)"),
        ("x\u200b", "contains an unprintable character (U+200B at position 2)"),
        ('"x"', "is in quotes"),
    ],
)
def test_an_issuer_or_application_id_that_looks_like_another_is_refused_at_once(hsm, keys, clock, name, value, flaw):
    says = f"^{re.escape(f'{name} {flaw}')}$"
    with pytest.raises(IssueError, match=says):
        hsm(**{name: value})
    names = {"issuer": ISSUER, "application_id": APPLICATION_ID} | {name: value}
    with pytest.raises(IssueError, match=says):
        TokenIssuer.from_directory(keys, **names)
    with pytest.raises(ConfigError, match=says):
        TokenVerifier.from_directory(keys, **names)


@pytest.mark.usefixtures("clock")
def test_a_key_that_ends_before_the_token_does_not_sign_it(hsm, pairs, verify):
    signer = Hsm(pairs["ES256"])
    issuer = TokenIssuer(signer, issuer=ISSUER, application_id=APPLICATION_ID)
    signer.exp = NOW + 120
    assert verify(issuer.issue("42")).id == "42"
    signer.exp = NOW + 119
    with pytest.raises(IssueError, match=r"^the key expires before the token would$"):
        issuer.issue("42")


def test_a_key_of_the_folder_that_ends_before_the_token_does_not_sign_it(directory, keys, pairs, clock):
    change(keys, pairs["ES256"].kid, exp=NOW + 121)
    clock.move_to(utc(NOW + 1))
    assert kid_of(directory.issue("42")) == pairs["ES256"].kid
    clock.move_to(utc(NOW + 2))
    with pytest.raises(IssueError, match=r"^the key expires before the token would$"):
        directory.issue("42")


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
@pytest.mark.parametrize("size", [0, 63, 65, 71])
def test_a_signature_of_another_length_is_refused(hsm, alg, size):
    assert hsm(alg, sign=lambda _: b"0" * 64).issue("42")
    says = f"the signer returned {size} bytes (expected 64, for ES256 raw r and s and not DER)"
    with pytest.raises(IssueError, match=f"^{re.escape(says)}$"):
        hsm(alg, sign=lambda _: b"0" * size).issue("42")


@pytest.mark.usefixtures("clock")
def test_a_signer_that_gives_der_is_refused(hsm, pairs):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    with pytest.raises(IssueError, match=r"^the signer returned (6\d|7[0-2]) bytes \(expected 64, for ES256 raw"):
        hsm(sign=lambda data: pairs["ES256"].key.sign(data, ec.ECDSA(hashes.SHA256()))).issue("42")


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("alg", ["HS256", "ES384", "none", ""])
def test_a_signer_of_another_algorithm_is_refused(pairs, alg):
    signer = Hsm(pairs["ES256"])
    issuer = TokenIssuer(signer, issuer=ISSUER, application_id=APPLICATION_ID)
    assert kid_of(issuer.issue("42")) == signer.kid
    signer.alg = alg
    with pytest.raises(IssueError, match=r"^the signer's alg is not ES256, EdDSA or RS256$"):
        issuer.issue("42")


@pytest.mark.usefixtures("clock")
def test_what_a_signer_raises_is_not_hidden(hsm):
    def fail(_):
        raise TimeoutError("the HSM does not answer")

    with pytest.raises(TimeoutError, match=r"^the HSM does not answer$"):
        hsm(sign=fail).issue("42")


# --- the key directory


def test_a_pending_key_signs_from_its_nbf_on_by_itself(directory, keys, pairs, clock):
    change(keys, pairs["EdDSA"].kid, nbf=NOW + 3600)
    for now, alg in ((NOW + 1, "ES256"), (NOW + 3599, "ES256"), (NOW + 3600, "EdDSA"), (NOW + 9999, "EdDSA")):
        clock.move_to(utc(now))
        assert kid_of(directory.issue("42")) == pairs[alg].kid


def test_a_revoked_key_hands_over_to_another_within_a_second(directory, keys, pairs, clock):
    assert kid_of(directory.issue("42")) == pairs["ES256"].kid
    change(keys, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    clock.move_to(utc(NOW + 1))
    assert kid_of(directory.issue("42")) == pairs["EdDSA"].kid


def test_a_directory_that_loses_its_keys_stops_minting_and_goes_on_when_they_return(directory, keys, pairs, clock):
    aside = (keys / "public").rename(keys / "aside")
    clock.move_to(utc(NOW + 1))
    says = f"{keys / 'public'}: no current key (found {keys / 'public'}: cannot be read (No such file or directory))"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
        directory.issue("42")
    aside.rename(keys / "public")
    clock.move_to(utc(NOW + 2))
    assert kid_of(directory.issue("42")) == pairs["ES256"].kid


@pytest.mark.usefixtures("clock")
def test_a_directory_without_a_private_key_is_refused_at_once(keys, pairs):
    assert TokenIssuer.from_directory(str(keys), issuer=ISSUER, application_id=APPLICATION_ID).issue("42")
    shutil.rmtree(keys / "private")
    path = keys / "private" / f"{pairs['ES256'].kid}.pem"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(f'{path}: cannot be read (No such file or directory)')}$"):
        TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)


@pytest.mark.usefixtures("clock")
def test_a_directory_without_a_current_key_is_refused_at_once(keys, pairs):
    for pair in pairs.values():
        change(keys, pair.kid, nbf=NOW + 1)
    first = min(pair.kid for pair in pairs.values())
    says = (
        f"{keys / 'public'}: no current key (found {first}, pending until {times.utc(NOW + 1)}: is this clock behind "
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)


def test_threads_issue_good_tokens_through_a_rotation(keys, pairs, monkeypatch):
    now = NOW
    # Not freeze_time: it leaves the clock alone for what a thread calls first.
    monkeypatch.setattr(issuer, "time", SimpleNamespace(time=lambda: now + 0.5))
    directory = TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)
    path = keys / "public" / f"{pairs['EdDSA'].kid}.json"
    following = json.dumps(json.loads(path.read_bytes()) | {"nbf": NOW + 4}).encode()
    path.unlink()
    issued, stop = queue.Queue(maxsize=20), threading.Event()

    def issue():
        while not stop.is_set():
            try:
                made = directory.issue("42")
            except Exception as exc:  # noqa: BLE001 - reported to the test
                made = exc
            issued.put(made)

    threads = [threading.Thread(target=issue) for _ in range(4)]
    for thread in threads:
        thread.start()
    found = []
    try:
        for second in range(1, 7):
            if second == 2:
                atomic.write_atomic(path, following)
            now = NOW + second
            found += [issued.get(timeout=10) for _ in range(60)]
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            with contextlib.suppress(queue.Empty):
                issued.get(timeout=0.05)
    assert [made for made in found if not isinstance(made, str)] == []
    ring = KeyDirectory(keys / "public").load()
    for token in found:
        iat = forge.parse(token).claims["iat"]
        assert kid_of(token) == ring.current(iat).kid
        assert tokens.verify(token, rules.Policy(ISSUER, APPLICATION_ID, ring, iat)).id == "42"
    assert {kid_of(token) for token in found} == {pairs["ES256"].kid, pairs["EdDSA"].kid}


def test_a_missing_private_key_of_the_next_key_is_logged_once_and_well_before_the_switch(keys, pairs, clock, caplog):
    change(keys, pairs["EdDSA"].kid, nbf=NOW + 3600)
    path = keys / "private" / f"{pairs['EdDSA'].kid}.pem"
    path.rename(keys / "aside")
    directory = TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)
    for later in (1, 2, 3):
        clock.move_to(utc(NOW + later))
        assert kid_of(directory.issue("42")) == pairs["ES256"].kid
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "verifier.signing",
            "WARNING",
            f"{path} is missing, and {pairs['EdDSA'].kid} signs from 2027-01-15 09:00:00 UTC: no token can be issued "
            "here then; copy the file from where the key was made",
        )
    ]


def test_an_issuer_works_in_a_child_that_was_forked_while_another_thread_used_it(keys):
    current_key = CurrentKey(keys)
    held, release = threading.Event(), threading.Event()

    def hold():
        with current_key._refresh._lock:
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
            child = os.fork()
        if child == 0:  # pragma: no cover - in a child
            signal.alarm(10)
            os._exit(0 if current_key.signer(NOW).sign(b"message") else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        release.set()
        thread.join()
    assert current_key.signer(NOW).kid
