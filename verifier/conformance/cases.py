"""The requests of `verifier check`, valid and hostile, as a table."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from verifier.conformance.forge import OMIT, Context, der, flip_low_bit, hs256
from verifier.conformance.messages import JSON_TYPE, Request

MUST, SHOULD = "must", "should"
NULL_KID = {"alg": "HS256", "kid": "../../../../../../../dev/null"}


class Advice(NamedTuple):
    """What a failure leads to, and how to fix it."""

    impact: str
    fix: str


EXACT = Advice(
    "escs signs the player in with these members; null, an empty string or another member is not in its interface",
    "return {_id, email?, username?} from the token's sub, email and username, and omit those that it does not carry",
)
WIRE = Advice(
    "it is the same request; escs may send it in this form at any time",
    "read the body with a JSON parser and the HTTP parts with the framework, and ignore unknown members",
)
TOLERANT = Advice(
    "tokens come from several libraries and clocks, which write this without a mistake; players are rejected",
    "treat null and empty as absent, accept aud as a list and typ in any case, and allow 30 s of clock skew",
)
ALG = Advice(
    "the sender writes the header: a sender that can choose alg signs in as any player without a key",
    "tie the algorithm to the key in your code and never take it from the token (RFC 8725 section 3.1)",
)
SIGNATURE = Advice(
    "anyone signs in as any player with a token of their own making",
    "verify the signature over header and payload before you read a claim; call verify, not decode, in your library",
)
KEY = Advice(
    "the sender writes the header: a key that it contains or points to is the sender's",
    "look kid up in your own key set, compare it as a string, and ignore jwk, jku, x5u and x5c",
)
ENCODING = Advice(
    "a token with several encodings bypasses deny lists, and parsers disagree about it",
    "accept exactly three parts of canonical base64url without padding, and ES256 signatures of 64 bytes only",
)
PROFILE = Advice(
    "a mistake of the signer stays unnoticed until a stricter library, or another kind of token, is used",
    "require typ at+jwt and kid, reject crit, and check the type of every claim",
)
TIME = Advice(
    "a token that leaked in a log or a URL signs the player in for as long as you accept it",
    "require exp later than now and nbf not later, in seconds, with at most 60 s of leeway",
)
LIFETIME = Advice(
    "without a maximum, one wrong unit in the signer issues tokens that are valid for years",
    "require iat and exp as numbers of seconds, iat not in the future, and exp at most 300 s after iat",
)
AUDIENCE = Advice(
    "a token that the player gave to another application, or another game, signs in here",
    "require aud and iss, and compare the complete strings with applicationId and your issuer",
)
PLAYER = Advice(
    "escs would get a player without an id, and confuse all players who have none",
    "require sub, a string that is not empty",
)
SECRET = Advice(
    "the secret distinguishes escs from anyone else who holds a token and requests the player's e-mail",
    "require strings, look the application up, and compare the complete secret in constant time, before the token",
)
INPUT = Advice(
    "a request that escs does not send needs a clear rejection, not a guess and not a crash",
    "respond 400 with {error, error_description} unless the body is one JSON object with the three strings, each once",
)
HTTP = Advice(
    "a clear status shows the caller what to change, and nothing unexpected is read",
    "accept POST (else 405 with Allow) and application/json (else 415), up to 16 KiB (else 413), and never redirect",
)
AGAIN = Advice(
    "one bad request must not lock out the next player",
    "process each request independently; if a rate limiter caused this, exempt escs",
)


class Section(NamedTuple):
    """What the rows below it have in common."""

    group: str
    level: str
    status: int  # of this project's response
    needs: str  # "", or what the token must be: "JWS", "ES256", "public key"; or "key"
    advice: Advice


Row = tuple[str, str, Callable[[Context], Request]]  # id, description, how it is built


class Case(NamedTuple):
    """One request and the response that it must get."""

    id: str
    description: str
    build: Callable[[Context], Request]
    group: str
    level: str
    status: int
    needs: str
    advice: Advice


TABLE: list[Section | Row] = [
    Section("profile", MUST, 200, "", EXACT),
    ("profile-full", "a valid token", lambda k: k.request()),
    Section("profile", MUST, 200, "key", EXACT),
    ("profile-bare", "no email, no username", lambda k: k.signed(email=OMIT, username=OMIT)),
    ("profile-unicode", "a username beyond ASCII", lambda k: k.signed(username="Zoë \u2694 雪 \U0001f600")),
    ("profile-digits", "a player id of digits", lambda k: k.signed(sub="007")),
    ("profile-extra", "claims that the profile does not have", lambda k: k.signed(role="admin", id="7", name="x")),
    Section("profile", SHOULD, 200, "key", TOLERANT),
    ("profile-null", "email null, username empty", lambda k: k.signed(email=None, username="")),
    Section("signature", MUST, 401, "JWS", ALG),
    ("alg-none", "alg none, no signature", lambda k: k.forged({"alg": "none"}, lambda *_: b"")),
    ("alg-none-case", "alg nOnE, no signature", lambda k: k.forged({"alg": "nOnE"}, lambda *_: b"")),
    Section("signature", MUST, 401, "public key", ALG),
    (
        "hs256-secret",
        "HS256 with secretKey",
        lambda k: k.forged({"alg": "HS256"}, hs256(k.secret.encode("utf-8", "replace"))),
    ),
    ("hs256-empty", "HS256 with an empty key", lambda k: k.forged({"alg": "HS256"}, hs256(b""))),
    Section("signature", MUST, 401, "key", ALG),
    ("hs256-public", "HS256 with the public key", lambda k: k.forged({"alg": "HS256"}, hs256(k.public_pem()))),
    Section("signature", MUST, 401, "JWS", SIGNATURE),
    ("claims-modified", "another sub, unchanged signature", lambda k: k.forged(sub="another-player")),
    ("signature-empty", "no signature", lambda k: k.forged(sign=lambda *_: b"")),
    ("signature-missing", "no third part", lambda k: k.request(k.valid_token().rpartition(".")[0])),
    ("signature-zero", "a signature of zeros", lambda k: k.forged(sign=lambda _, old: bytes(len(old)))),
    ("signature-truncated", "a truncated signature", lambda k: k.forged(sign=lambda _, old: old[: len(old) // 2])),
    ("other-key", "signed with an unknown key", lambda k: k.signed_by_unknown_key()),
    Section("signature", MUST, 401, "", SIGNATURE),
    ("token-modified", "one character modified", lambda k: k.request(flip_low_bit(k.valid_token(), -9))),
    ("token-garbage", "a string that is not a token", lambda k: k.request("not-a-token")),
    Section("signature", SHOULD, 401, "ES256", ENCODING),
    ("signature-der", "the signature in DER", lambda k: k.forged(sign=der)),
    Section("signature", SHOULD, 401, "JWS", ENCODING),
    ("token-padded", "base64 padding at the end", lambda k: k.request(k.valid_token() + "==")),
    ("token-noncanonical", "non-canonical base64url", lambda k: k.request(flip_low_bit(k.valid_token(), -1))),
    ("token-parts", "a fourth part", lambda k: k.request(k.valid_token() + ".e30")),
    Section("header", MUST, 401, "JWS", KEY),
    ("jwk-header", "an unknown key in the header", lambda k: k.signed_by_unknown_key(alg="ES256", jwk=None)),
    ("jku-header", "a key URL in the header", lambda k: k.signed_by_unknown_key(jku="https://keys.invalid/jwks.json")),
    ("kid-unknown", "an unknown kid", lambda k: k.signed_by_unknown_key(kid="unknown")),
    ("kid-path", "kid /dev/null, empty HMAC key", lambda k: k.forged(NULL_KID, hs256(b""))),
    Section("header", SHOULD, 200, "key", TOLERANT),
    ("typ-case", "typ application/AT+JWT", lambda k: k.signed({"typ": "application/AT+JWT"})),
    Section("header", SHOULD, 401, "key", PROFILE),
    ("kid-missing", "no kid", lambda k: k.signed({"kid": OMIT})),
    ("typ-jwt", "typ JWT", lambda k: k.signed({"typ": "JWT"})),
    ("crit", "a critical extension", lambda k: k.signed({"crit": ["x-check"], "x-check": 1})),
    Section("claims", SHOULD, 200, "key", TOLERANT),
    ("aud-list", "aud as a list", lambda k: k.signed(aud=["another", k.application_id])),
    ("clock-ahead", "iat and nbf 10 s ahead", lambda k: k.signed(iat=k.now + 10, nbf=k.now + 10)),
    Section("claims", MUST, 401, "key", TIME),
    ("exp-past", "expired an hour ago", lambda k: k.signed(iat=k.now - 3900, exp=k.now - 3600)),
    ("nbf-future", "not valid for another hour", lambda k: k.signed(nbf=k.now + 3600)),
    Section("claims", MUST, 401, "key", AUDIENCE),
    ("aud-other", "aud is another application", lambda k: k.signed(aud="another-application")),
    ("aud-longer", "aud begins with the application", lambda k: k.signed(aud=f"{k.application_id}-2")),
    ("aud-missing", "no aud", lambda k: k.signed(aud=OMIT)),
    ("iss-other", "another issuer", lambda k: k.signed(iss="https://another.example")),
    Section("claims", MUST, 401, "key", PLAYER),
    ("sub-missing", "no sub", lambda k: k.signed(sub=OMIT)),
    Section("claims", SHOULD, 401, "key", LIFETIME),
    ("exp-recent", "expired 90 s ago", lambda k: k.signed(iat=k.now - 300, exp=k.now - 90)),
    ("exp-missing", "no exp", lambda k: k.signed(exp=OMIT)),
    ("exp-string", "exp as a string", lambda k: k.signed(exp=str(k.now + 120))),
    ("exp-milliseconds", "exp in milliseconds", lambda k: k.signed(exp=(k.now + 120) * 1000)),
    ("exp-far", "exp in a year", lambda k: k.signed(exp=k.now + 365 * 86_400)),
    ("iat-future", "issued one hour in the future", lambda k: k.signed(iat=k.now + 3600, exp=k.now + 3700)),
    Section("claims", SHOULD, 401, "key", PROFILE),
    ("sub-number", "sub as a number", lambda k: k.signed(sub=42)),
    ("sub-duplicate", "duplicate sub", lambda k: k.duplicate_sub()),
    Section("client", MUST, 401, "", SECRET),
    ("secret-wrong", "a wrong secret", lambda k: k.request(secretKey="not-the-secret")),
    ("secret-truncated", "the secret without its last character", lambda k: k.request(secretKey=k.secret[:-1] or "x")),
    ("application-unknown", "an unknown application", lambda k: k.request(applicationId="another-application")),
    Section("client", MUST, 400, "", SECRET),
    ("secret-missing", "no secretKey", lambda k: k.request(secretKey=OMIT)),
    ("secret-true", "secretKey true", lambda k: k.request(secretKey=True)),
    ("secret-operator", "secretKey as a query operator", lambda k: k.request(secretKey={"$ne": ""})),
    ("application-missing", "no applicationId", lambda k: k.request(applicationId=OMIT)),
    Section("client", SHOULD, 401, "", SECRET),
    ("secret-before-token", "wrong secret and token", lambda k: k.request("not-a-token", secretKey="not-the-secret")),
    Section("body", SHOULD, 200, "", WIRE),
    ("body-extra", "an unknown member", lambda k: k.request(state="check")),
    Section("body", MUST, 200, "", WIRE),
    (
        "type-charset",
        "a charset in Content-Type",
        lambda k: k.http(headers={"Content-Type": f"{JSON_TYPE}; charset=utf-8"}),
    ),
    Section("body", SHOULD, 400, "", INPUT),
    ("body-empty", "no body", lambda k: k.http(body=b"")),
    ("body-text", "not JSON", lambda k: k.http(body=b"code=x&secretKey=y&applicationId=z")),
    ("body-list", "a JSON list", lambda k: k.http(body=b"[1]")),
    ("body-latin1", "not UTF-8", lambda k: k.http(body=b'{"code": "\xff"}')),
    ("body-deep", "5,000 nested levels", lambda k: k.http(body=b'{"code": ' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("code-missing", "no code", lambda k: k.request(code=OMIT)),
    ("secret-duplicate", "duplicate secretKey", lambda k: k.duplicate_secret()),
    Section("http", SHOULD, 200, "", WIRE),
    ("chunked", "chunked transfer coding", lambda k: k.http(chunked=True)),
    Section("http", SHOULD, 415, "", HTTP),
    ("type-text", "Content-Type text/plain", lambda k: k.http(headers={"Content-Type": "text/plain"})),
    (
        "encoded",
        "Content-Encoding gzip",
        lambda k: k.http(headers={"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}),
    ),
    Section("http", SHOULD, 413, "", HTTP),
    ("body-large", "a body of 128 KiB", lambda k: k.request(padding="x" * 131_072)),
    Section("http", SHOULD, 405, "", HTTP),
    ("method-get", "GET", lambda k: k.http(method="GET", body=b"", headers={})),
    ("method-put", "PUT", lambda k: k.http(method="PUT")),
    Section("http", SHOULD, 404, "", HTTP),
    ("trailing-slash", "the path with or without the slash", lambda k: k.http(toggle_slash=True)),
    Section("profile", MUST, 200, "", AGAIN),
    ("profile-again", "a valid token at the end", lambda k: k.request()),
]


def _cases() -> Iterator[Case]:
    for entry in TABLE:
        if isinstance(entry, Section):
            section = entry
        else:
            yield Case(*entry, section.group, section.level, section.status, section.needs, section.advice)


CASES = list(_cases())
