"""What is issued: what the verifier accepts, and nothing that it would refuse."""

import re
from typing import Any

import pytest

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier.core.encoding import b64url_decode
from verifier.core.keyring import Keyring
from verifier.core.rules import Policy
from verifier.core.tokens import Player
from verifier.errors import IssueError
from verifier.signing.issuer import issue


class Signer:
    """A key of which only the signature is seen."""

    def __init__(self, pair: forge.Pair, **attributes: Any) -> None:
        self.kid, self.alg, self.sign = pair.kid, pair.alg, pair.sign
        vars(self).update(attributes)


def issue_token(player: Player, signer: Signer, lifetime_s: int = 300, max_lifetime_s: int = 300) -> str:
    return issue(player, signer, Policy(ISSUER, APPLICATION_ID, Keyring(), NOW, 0, max_lifetime_s), lifetime_s)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_an_issued_token_is_accepted(pairs, verify, alg):
    player = Player("42", "ann@example.com", "ann")
    assert verify(issue_token(player, Signer(pairs[alg]))) == player


def test_an_issued_token_carries_what_was_agreed_to_and_nothing_else(pairs):
    token = forge.parse(issue_token(Player("42", email=""), Signer(pairs["ES256"]), lifetime_s=60))
    assert token.header == {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    jti = token.claims.pop("jti")
    assert len(jti) == 22
    assert token.claims == {
        "iss": ISSUER,
        "aud": APPLICATION_ID,
        "sub": "42",
        "iat": NOW,
        "exp": NOW + 60,
        "client_id": APPLICATION_ID,
    }


@pytest.mark.parametrize(
    ("player", "changes", "says"),
    [
        (Player(""), {}, "sub must be a non-empty string"),
        (Player(42), {}, "sub must be a string, not a number"),  # type: ignore[arg-type]
        (Player("x" * 256), {}, "sub is longer than 255 characters"),
        (Player("42", email=0), {}, "email must be a string"),  # type: ignore[arg-type]
        (Player("42", username="\ud83d"), {}, "username has an unpaired surrogate (truncated emoji)"),
        (Player("42"), {"lifetime_s": 301}, "token lifetime exceeds the maximum of 300 s"),
        (Player("42"), {"lifetime_s": 0}, "token has expired (exp)"),
    ],
)
def test_what_the_verifier_would_refuse_is_not_issued(pairs, player, changes, says):
    signer = Signer(pairs["ES256"])
    assert issue_token(Player("42"), signer, lifetime_s=300)
    with pytest.raises(IssueError, match=f"^{re.escape(says)}$"):
        issue_token(player, signer, **changes)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"alg": "HS256"}, "the signer's alg is not ES256, EdDSA or RS256"),
        ({"exp": NOW + 299}, "the key expires before the token would"),
        (
            {"sign": lambda _: bytes(70)},
            "the signer returned 70 bytes (expected 64, for ES256 raw r and s and not DER)",
        ),
    ],
)
def test_a_signer_that_cannot_make_a_good_token_is_refused(pairs, attributes, says):
    assert issue_token(Player("42"), Signer(pairs["ES256"], exp=NOW + 300))
    with pytest.raises(IssueError, match=f"^{re.escape(says)}$"):
        issue_token(Player("42"), Signer(pairs["ES256"], **attributes))


def test_a_longer_lifetime_is_issued_where_the_verifier_allows_it(pairs):
    issued = forge.parse(issue_token(Player("42"), Signer(pairs["ES256"]), lifetime_s=301, max_lifetime_s=301))
    assert issued.claims["exp"] == NOW + 301


def test_an_issued_token_has_no_spaces_in_its_json(pairs):
    for part in issue_token(Player("42"), Signer(pairs["ES256"])).split(".")[:2]:
        assert b" " not in b64url_decode(part)
