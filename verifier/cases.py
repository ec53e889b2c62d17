"""The requests of `verifier check`, good and hostile, as a table; their tokens are made here from scratch.

Knows the contract and none of this project's token code, so that a mistake there cannot hide here.
"""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from verifier.exchange import JSON, Request

MUST, SHOULD = "must", "should"
CLAIMS = {"_id": "sub", "email": "email", "username": "username"}  # where each member of a profile comes from
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NULL_KID = {"alg": "HS256", "kid": "../../../../../../../dev/null"}
ABSENT: Any = object()  # as a change: leave this member out

Members = dict[str, Any]
Sign = Callable[[bytes, bytes], bytes]  # signing input, the good token's signature


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read(token: str) -> tuple[Members, Members, bytes]:
    """Header, claims and signature of a compact JWS; raises ValueError."""
    header, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    members = json.loads(header), json.loads(claims)
    if not all(isinstance(part, dict) for part in members):
        raise ValueError("not a JWS")
    return *members, signature


def changed(members: Members, changes: Members | None = None) -> bytes:
    """JSON in which only these members differ."""
    return json.dumps({n: v for n, v in (members | (changes or {})).items() if v is not ABSENT}).encode()


def make_signature(key: Any, data: bytes) -> bytes:
    """A JWS signature (RFC 7518 §3)."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return bytes(key.sign(data))


def fresh_key(alg: object) -> Any:
    """A stranger's key for this algorithm."""
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048) if alg == "RS256" else ec.generate_private_key(ec.SECP256R1())


def hs256(key: bytes) -> Sign:
    """The signature of somebody who holds `key` for an HMAC key."""
    return lambda data, _: hmac.digest(key, data, "sha256")


def der(_: bytes, signature: bytes) -> bytes:
    """An ES256 signature as most libraries of cryptography write it."""
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


def swap(token: str, index: int) -> str:
    """The token with the lowest bit of one character the other way round."""
    index %= len(token)
    return token[:index] + ALPHABET[ALPHABET.find(token[index]) ^ 1] + token[index + 1 :]


def content(kind: str, **more: str) -> dict[str, str]:
    """Headers about the body."""
    return {"Content-Type": kind} | {f"Content-{name}": value for name, value in more.items()}


class Key(NamedTuple):
    """The game's signing key."""

    key: Any
    alg: str
    kid: str
    issuer: str

    @classmethod
    def load(cls, pem: bytes, kid: str, issuer: str) -> "Key":
        """Raises ValueError when it is not an unencrypted P-256, Ed25519 or RSA key."""
        try:
            key: Any = load_pem_private_key(pem, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise ValueError("not an unencrypted private key in PEM") from None
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key, "ES256", kid, issuer)
        if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
            return cls(key, "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA", kid, issuer)
        raise ValueError("the private key must be P-256, Ed25519 or RSA")

    def token(self, header: bytes, claims: bytes) -> str:
        """A compact JWS over exactly these bytes."""
        text = f"{b64(header)}.{b64(claims)}"
        return f"{text}.{b64(make_signature(self.key, text.encode()))}"


@dataclass(frozen=True)
class Kit:
    """What escs knows, and either one good token or the game's key; makes the requests of the cases."""

    application_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    key: Any = field(default=None, repr=False)  # Key or None

    @cached_property
    def player(self) -> str:
        return f"check-{self.now}"

    @property
    def now(self) -> int:
        return int(time.time())

    def lacks(self, needs: str) -> str:
        """Why a case cannot be made from what is here, or ""."""
        if self.key is None and needs == "key":
            return "needs a key to sign with (--keys or --private-key)"
        try:
            alg = str(read(self.good())[0].get("alg"))
        except ValueError:
            return "the token is not a JWS" if needs else ""
        if needs == "public key" and alg.startswith("HS"):
            return "the token is signed with a shared key"
        return "the token is not signed with ES256" if needs == "ES256" and alg != "ES256" else ""

    def good(self) -> str:
        """A token that has to be accepted."""
        if self.key is None:
            return self.token
        header = {"alg": self.key.alg, "kid": self.key.kid, "typ": "at+jwt"}
        claims = {"iss": self.key.issuer, "aud": self.application_id, "client_id": self.application_id}
        claims |= {"sub": self.player, "email": f"{self.player}@example.com", "username": f"{self.player}-name"}
        times = {"iat": self.now, "exp": self.now + 120, "jti": b64(str(time.time_ns()).encode())}
        return str(self.key.token(changed(header), changed(claims | times)))

    def ask(self, token: str | None = None, **changes: Any) -> Request:
        """What escs posts, with these members of the body changed."""
        token = self.good() if token is None else token
        body = changed({"code": token, "secretKey": self.secret, "applicationId": self.application_id}, changes)
        try:
            claims = read(token)[1]
        except ValueError:
            claims = {}
        texts = {claim: value for claim, value in claims.items() if isinstance(value, str) and value}
        profile = {name: texts[claim] for name, claim in CLAIMS.items() if claim in texts}
        return Request(body, token, changes.get("secretKey", self.secret), profile)

    def http(self, **changes: Any) -> Request:
        """What escs posts, with something else than its members changed."""
        return replace(self.ask(), **changes)

    def forged(self, header: Members | None = None, sign: Sign = lambda _, old: old, **claims: Any) -> Request:
        """The good token with changed members and another signature, or the one it had."""
        token = self.good()
        head, payload, _ = token.split(".")
        old_header, old_claims, signature = read(token)
        head = b64(changed(old_header, header)) if header else head
        payload = b64(changed(old_claims, claims)) if claims else payload
        return self.ask(f"{head}.{payload}.{b64(sign(f'{head}.{payload}'.encode(), signature))}")

    def minted(self, header: Members | None = None, **claims: Any) -> Request:
        """The good token with changed members, signed by the game."""
        return self.forged(header, lambda data, _: make_signature(self.key.key, data), **claims)

    def stranger(self, **header: Any) -> Request:
        """A token for another player, signed with a key that the game has never seen."""
        key = fresh_key(header.get("alg") or read(self.good())[0].get("alg"))
        if "jwk" in header:
            numbers = key.public_key().public_numbers()
            x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
            header["jwk"] = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        return self.forged(header, lambda data, _: make_signature(key, data), sub="somebody-else")

    def two_players(self) -> Request:
        """A token signed by the game that names two players."""
        header, claims, _ = read(self.good())
        return self.ask(self.key.token(changed(header), changed(claims)[:-1] + b', "sub": "somebody-else"}'))

    def body_twice(self) -> Request:
        """A body with a wrong secret and the right one."""
        request = self.ask()
        return replace(request, body=b'{"secretKey": "another", ' + request.body[1:])

    def public_pem(self) -> bytes:
        """The game's public key, as everybody may have it."""
        return bytes(self.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class Lesson(NamedTuple):
    """Why a case matters, and how to mend what fails it."""

    why: str
    mend: str


EXACT = Lesson(
    "escs signs the player in with these members; null, an empty text or another member is not in its interface",
    "answer {_id, email?, username?} from the token's sub, email and username, and leave out what it does not carry",
)
WIRE = Lesson(
    "it is the same request; escs may write it this way tomorrow",
    "read the body with a JSON parser and the HTTP parts with the framework, and ignore members you do not know",
)
TOLERANT = Lesson(
    "tokens come from several libraries and clocks, which write this although nothing is wrong",
    "accept null and empty for absent, aud as a list, typ in any case, and 30 s between two clocks",
)
ALG = Lesson(
    "the header is written by the sender: who may choose alg there needs no key to sign in as anybody",
    "tie the algorithm to the key in your code and never take it from the token (RFC 8725 section 3.1)",
)
SIGNATURE = Lesson(
    "anybody signs in as any player with a token of their own making",
    "verify the signature over header and payload before you read a claim; use verify, not decode, of your library",
)
KEY = Lesson(
    "the header is written by the sender: a key that it brings or points to is the sender's",
    "look kid up in your own list of keys, compare it as text, and ignore jwk, jku, x5u and x5c",
)
SPELLING = Lesson(
    "one token with several spellings gets past lists of tokens, and parsers disagree about it",
    "accept exactly three parts of canonical base64url without padding, and ES256 signatures of 64 bytes only",
)
PROFILE = Lesson(
    "a mistake of the signing side stays unseen until a stricter library, or another kind of token, comes along",
    "require typ at+jwt and kid, refuse crit, and check the type of every claim",
)
TIME = Lesson(
    "a token that leaked in a log or a URL signs the player in for as long as you accept it",
    "require exp later than now and nbf not later, in seconds, with at most 60 s of leeway",
)
LIFE = Lesson(
    "without a bound, one wrong unit on the signing side makes tokens that live for years",
    "require iat and exp as numbers of seconds, iat not in the future, and exp at most 300 s after iat",
)
AUDIENCE = Lesson(
    "a token that the player gave to another application, or another game, signs in here",
    "compare aud with applicationId and iss with your issuer, as whole texts, and require both",
)
PLAYER = Lesson(
    "escs would get a player without an id, and mix up all players who have none",
    "require sub, a text that is not empty",
)
SECRET = Lesson(
    "the secret tells escs from everybody else who holds a token and asks for the player's e-mail",
    "require texts, look the application up, and compare the whole secret in constant time, before the token",
)
INPUT = Lesson(
    "what is not the request of escs needs a plain refusal, not a guess and not a crash",
    "answer 400 with {error, error_description} to what is not one JSON object with the three texts, each once",
)
HTTP = Lesson(
    "a clear status tells the caller what to change, and nothing unexpected is read",
    "take POST (else 405 with Allow) and application/json (else 415), up to 16 KiB (else 413), and never redirect",
)
AGAIN = Lesson(
    "one bad request must not lock out the next player",
    "answer each request by itself; if a rate limiter did this, let escs pass",
)


class Heading(NamedTuple):
    """What the rows below it have in common."""

    group: str
    level: str
    status: int  # of this project's answer
    needs: str  # "", or what the token must be: "JWS", "ES256", "public key"; or "key"
    lesson: Lesson


Row = tuple[str, str, Callable[[Kit], Request]]  # id, what is sent, how it is made


class Case(NamedTuple):
    """One request and what it has to lead to."""

    id: str
    what: str
    make: Callable[[Kit], Request]
    group: str
    level: str
    status: int
    needs: str
    lesson: Lesson


TABLE: list[Heading | Row] = [
    Heading("profile", MUST, 200, "", EXACT),
    ("profile-full", "a good token", lambda k: k.ask()),
    Heading("profile", MUST, 200, "key", EXACT),
    ("profile-bare", "no email, no username", lambda k: k.minted(email=ABSENT, username=ABSENT)),
    ("profile-unicode", "a username beyond ASCII", lambda k: k.minted(username="Zoë \u2694 雪 \U0001f600")),
    ("profile-digits", "a player id of digits", lambda k: k.minted(sub="007")),
    ("profile-extra", "claims that are not the profile's", lambda k: k.minted(role="admin", id="7", name="x")),
    Heading("profile", SHOULD, 200, "key", TOLERANT),
    ("profile-null", "email null, username empty", lambda k: k.minted(email=None, username="")),
    Heading("signature", MUST, 401, "JWS", ALG),
    ("alg-none", "alg none, no signature", lambda k: k.forged({"alg": "none"}, lambda *_: b"")),
    ("alg-none-case", "alg nOnE, no signature", lambda k: k.forged({"alg": "nOnE"}, lambda *_: b"")),
    Heading("signature", MUST, 401, "public key", ALG),
    (
        "hs256-secret",
        "HS256 with secretKey",
        lambda k: k.forged({"alg": "HS256"}, hs256(k.secret.encode("utf-8", "replace"))),
    ),
    ("hs256-empty", "HS256 with an empty key", lambda k: k.forged({"alg": "HS256"}, hs256(b""))),
    Heading("signature", MUST, 401, "key", ALG),
    ("hs256-public", "HS256 with the public key", lambda k: k.forged({"alg": "HS256"}, hs256(k.public_pem()))),
    Heading("signature", MUST, 401, "JWS", SIGNATURE),
    ("claims-changed", "another sub, signature as it was", lambda k: k.forged(sub="somebody-else")),
    ("signature-empty", "no signature", lambda k: k.forged(sign=lambda *_: b"")),
    ("signature-missing", "no third part", lambda k: k.ask(k.good().rpartition(".")[0])),
    ("signature-zero", "a signature of zeros", lambda k: k.forged(sign=lambda _, old: bytes(len(old)))),
    ("signature-cut", "half a signature", lambda k: k.forged(sign=lambda _, old: old[: len(old) // 2])),
    ("other-key", "another key's signature", lambda k: k.stranger()),
    Heading("signature", MUST, 401, "", SIGNATURE),
    ("token-changed", "one character changed", lambda k: k.ask(swap(k.good(), -9))),
    ("token-garbage", "a text that is no token", lambda k: k.ask("not-a-token")),
    Heading("signature", SHOULD, 401, "ES256", SPELLING),
    ("signature-der", "the signature in DER", lambda k: k.forged(sign=der)),
    Heading("signature", SHOULD, 401, "JWS", SPELLING),
    ("token-padded", "base64 padding at the end", lambda k: k.ask(k.good() + "==")),
    ("token-respelled", "unused bits set at the end", lambda k: k.ask(swap(k.good(), -1))),
    ("token-parts", "a fourth part", lambda k: k.ask(k.good() + ".e30")),
    Heading("header", MUST, 401, "JWS", KEY),
    ("jwk-header", "a stranger's key in the header", lambda k: k.stranger(alg="ES256", jwk=None)),
    ("jku-header", "a stranger's URL in the header", lambda k: k.stranger(jku="https://keys.invalid/jwks.json")),
    ("kid-unknown", "a stranger's kid and key", lambda k: k.stranger(kid="stranger")),
    ("kid-path", "kid /dev/null, empty HMAC key", lambda k: k.forged(NULL_KID, hs256(b""))),
    Heading("header", SHOULD, 200, "key", TOLERANT),
    ("typ-spelling", "typ application/AT+JWT", lambda k: k.minted({"typ": "application/AT+JWT"})),
    Heading("header", SHOULD, 401, "key", PROFILE),
    ("kid-missing", "no kid", lambda k: k.minted({"kid": ABSENT})),
    ("typ-jwt", "typ JWT", lambda k: k.minted({"typ": "JWT"})),
    ("crit", "a critical extension", lambda k: k.minted({"crit": ["x-check"], "x-check": 1})),
    Heading("claims", SHOULD, 200, "key", TOLERANT),
    ("aud-list", "aud as a list", lambda k: k.minted(aud=["another", k.application_id])),
    ("clock-ahead", "iat and nbf 10 s ahead", lambda k: k.minted(iat=k.now + 10, nbf=k.now + 10)),
    Heading("claims", MUST, 401, "key", TIME),
    ("exp-past", "expired an hour ago", lambda k: k.minted(iat=k.now - 3900, exp=k.now - 3600)),
    ("nbf-future", "valid in an hour", lambda k: k.minted(nbf=k.now + 3600)),
    Heading("claims", MUST, 401, "key", AUDIENCE),
    ("aud-other", "aud is another application", lambda k: k.minted(aud="another-application")),
    ("aud-longer", "aud begins with the application", lambda k: k.minted(aud=f"{k.application_id}-2")),
    ("aud-missing", "no aud", lambda k: k.minted(aud=ABSENT)),
    ("iss-other", "another issuer", lambda k: k.minted(iss="https://another.example")),
    Heading("claims", MUST, 401, "key", PLAYER),
    ("sub-missing", "no sub", lambda k: k.minted(sub=ABSENT)),
    Heading("claims", SHOULD, 401, "key", LIFE),
    ("exp-recent", "expired 90 s ago", lambda k: k.minted(iat=k.now - 300, exp=k.now - 90)),
    ("exp-missing", "no exp", lambda k: k.minted(exp=ABSENT)),
    ("exp-text", "exp as a text", lambda k: k.minted(exp=str(k.now + 120))),
    ("exp-milliseconds", "exp in milliseconds", lambda k: k.minted(exp=(k.now + 120) * 1000)),
    ("exp-far", "exp in a year", lambda k: k.minted(exp=k.now + 365 * 86_400)),
    ("iat-future", "issued in an hour", lambda k: k.minted(iat=k.now + 3600, exp=k.now + 3700)),
    Heading("claims", SHOULD, 401, "key", PROFILE),
    ("sub-number", "sub as a number", lambda k: k.minted(sub=42)),
    ("sub-twice", "sub twice", lambda k: k.two_players()),
    Heading("client", MUST, 401, "", SECRET),
    ("secret-wrong", "a wrong secret", lambda k: k.ask(secretKey="not-the-secret")),
    ("secret-cut", "the secret without its end", lambda k: k.ask(secretKey=k.secret[:-1] or "x")),
    ("application-unknown", "an unknown application", lambda k: k.ask(applicationId="another-application")),
    Heading("client", MUST, 400, "", SECRET),
    ("secret-missing", "no secretKey", lambda k: k.ask(secretKey=ABSENT)),
    ("secret-true", "secretKey true", lambda k: k.ask(secretKey=True)),
    ("secret-operator", "secretKey as a query", lambda k: k.ask(secretKey={"$ne": ""})),
    ("application-missing", "no applicationId", lambda k: k.ask(applicationId=ABSENT)),
    Heading("client", SHOULD, 401, "", SECRET),
    ("secret-first", "wrong secret and token", lambda k: k.ask("not-a-token", secretKey="not-the-secret")),
    Heading("body", SHOULD, 200, "", WIRE),
    ("body-extra", "a member that is not known", lambda k: k.ask(state="check")),
    Heading("body", MUST, 200, "", WIRE),
    ("type-charset", "a charset in Content-Type", lambda k: k.http(headers=content(f"{JSON}; charset=utf-8"))),
    Heading("body", SHOULD, 400, "", INPUT),
    ("body-empty", "no body", lambda k: k.http(body=b"")),
    ("body-text", "not JSON", lambda k: k.http(body=b"code=x&secretKey=y&applicationId=z")),
    ("body-list", "a JSON list", lambda k: k.http(body=b"[1]")),
    ("body-latin1", "not UTF-8", lambda k: k.http(body=b'{"code": "\xff"}')),
    ("body-deep", "nested 5,000 deep", lambda k: k.http(body=b'{"code": ' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("code-missing", "no code", lambda k: k.ask(code=ABSENT)),
    ("secret-twice", "secretKey twice", lambda k: k.body_twice()),
    Heading("http", SHOULD, 200, "", WIRE),
    ("chunked", "sent in chunks", lambda k: k.http(chunked=True)),
    Heading("http", SHOULD, 415, "", HTTP),
    ("type-text", "Content-Type text/plain", lambda k: k.http(headers=content("text/plain"))),
    ("encoded", "Content-Encoding gzip", lambda k: k.http(headers=content(JSON, Encoding="gzip"))),
    Heading("http", SHOULD, 413, "", HTTP),
    ("body-large", "a body of 128 KiB", lambda k: k.ask(padding="x" * 131_072)),
    Heading("http", SHOULD, 405, "", HTTP),
    ("method-get", "GET", lambda k: k.http(method="GET", body=b"", headers={})),
    ("method-put", "PUT", lambda k: k.http(method="PUT")),
    Heading("http", SHOULD, 404, "", HTTP),
    ("other-slash", "the path, but for a slash", lambda k: k.http(other_slash=True)),
    Heading("profile", MUST, 200, "", AGAIN),
    ("profile-again", "a good token after all that", lambda k: k.ask()),
]


def _cases() -> Iterator[Case]:
    for entry in TABLE:
        if isinstance(entry, Heading):
            heading = entry
        else:
            yield Case(*entry, heading.group, heading.level, heading.status, heading.needs, heading.lesson)


CASES = list(_cases())
