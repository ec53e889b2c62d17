"""Kinds of tokens, sent with the right secret: every JSON shape in header and payload, signatures, base64url, claims.

Those with a right signature can only come from the game backend; they are here because their cost counts as well.
"""

import base64
import json
from collections.abc import Callable, Iterator

from bench.kinds import Kind, Sender, fill, post, sign_in
from bench.kinds.shapes import SHAPES, Shape

CODE = 16_000  # characters of the longest code
PART = CODE * 3 // 4 - 300  # bytes of JSON in it


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def header(sender: Sender, **members: object) -> bytes:
    return json.dumps({"alg": "ES256", "kid": sender.kid, "typ": "at+jwt"} | members, separators=(",", ":")).encode()


def _claims(sender: Sender, number: int, **members: object) -> bytes:
    return json.dumps(sender.claims(number) | members, separators=(",", ":")).encode()


def _inside(members: bytes, shape: Shape) -> bytes:
    """An object with one more member of a shape."""
    return members[:-1] + b',"more":' + shape(PART - len(members)) + b"}"


def parts(sender: Sender) -> Iterator[Kind]:
    """Every shape as a header and as a payload, alone and beside what belongs there."""

    def kind(where: str, name: str, code: Callable[[int], str]) -> Kind:
        return Kind(f"{where}: {name}", lambda n: post(sign_in(sender, code(n))))

    for name, shape in SHAPES.items():
        whole = b64(shape(PART))
        payload = b64(_claims(sender, 0))
        inside = _inside(header(sender, n=0), shape)
        yield kind("header", name, lambda _, w=whole, p=payload: f"{w}.{p}.c2ln")
        yield kind(
            "member of the header",
            name,
            lambda n, i=inside, p=payload: b64(i.replace(b'"n":0', b'"n":%d' % n, 1)) + f".{p}.c2ln",
        )
        yield kind("payload, forged", name, lambda _, w=whole: f"{b64(header(sender))}.{w}.{'A' * 86}")
        yield kind("payload, signed", name, lambda _, s=shape: sender.compact(header(sender), s(PART)))
        yield kind(
            "claim, signed", name, lambda n, s=shape: sender.compact(header(sender), _inside(_claims(sender, n), s))
        )


def spellings(sender: Sender) -> Iterator[Kind]:
    """Codes that are no token, and base64url that is not canonical."""
    good = sender.compact(header(sender), _claims(sender, 0))
    first, second, third = good.split(".")
    codes = {
        "dots": "." * CODE,
        "two dots": "..",
        "letters": "x" * CODE,
        "letters and dots": "x." * (CODE // 2),
        "five parts (JWE)": ".".join(["eyJhIjoxfQ"] * 5),
        "a dot at the end": "x" * CODE + "..",
        "dots before a token": "." * 14_000 + good,
        "Bearer before a token": f"Bearer {good}",
        "a line feed behind a token": good + "\n",
        "white space behind a token": good + " " * 14_000,
        "padding": f"{first}=.{second}=.{third}==",
        "padding of 14 KB": f"{first}.{second}.{third}{'=' * 14_000}",
        "another alphabet": "+/" * 4000 + f".{second}.{third}",
        "another alphabet at the end": b64(b"x" * 10_000) + "+" + f".{second}.{third}",
        "spare bits": f"{first}.{second}.{third[:-1]}B",
        "above ASCII": "é" * 4000 + f".{second}.{third}",
        "emoji": "😀" * 1000 + f".{second}.{third}",
        "an emoji in the signature": f"{first}.{second}.😀",
        "unpaired surrogates": "\ud83d" * 2000 + f".{second}.{third}",
        "JSON serialization": json.dumps({"payload": second, "protected": first, "signature": third}),
        "zero bytes": "\x00" * 2500,
        "URL-escaped": "%65" * 5000,
        "a header of zeros": "A" * CODE + ".e30.",
        "a payload of zeros": f"{first}.{'A' * (CODE - 200)}.AAAA",
        "an empty header": f".{second}.{third}",
        "an empty payload": f"{first}..{third}",
        "an empty signature": f"{first}.{second}.",
        "case swapped": good.swapcase(),
    }
    for name, code in codes.items():
        yield Kind(f"code: {name}", lambda _, c=code: post(sign_in(sender, c)))


def headers(sender: Sender) -> Iterator[Kind]:
    """Members of the header that a verifier reads, and some that it must not."""
    long = PART - 500
    members: dict[str, dict[str, object]] = {
        "alg none": {"alg": "none"},
        "alg HS256": {"alg": "HS256"},
        "alg of another key type": {"alg": "RS256"},
        "alg of 11 KB": {"alg": "x" * long},
        "alg is a list": {"alg": ["ES256"] * 1000},
        "kid unknown": {"kid": "unknown"},
        "kid of 11 KB": {"kid": "x" * long},
        "kid of emoji": {"kid": "😀" * (long // 12)},
        "kid of unpaired surrogates": {"kid": "\ud83d" * (long // 6)},
        "kid is a path": {"kid": "../" * (long // 3)},
        "kid is a list": {"kid": ["x"] * 2000},
        "kid is an object": {"kid": {str(n): n for n in range(900)}},
        "kid is a number": {"kid": 1},
        "typ is JWT": {"typ": "JWT"},
        "typ of 11 KB": {"typ": "A" * long},
        "typ with application/ before it": {"typ": "application/at+jwt"},
        "typ in capitals": {"typ": "AT+JWT"},
        "typ is a list": {"typ": ["at+jwt"] * 1000},
        "crit": {"crit": [f"x{n}" for n in range(1000)]},
        "zip": {"zip": "DEF"},
        "b64": {"b64": False},
        "jwk": {"jwk": {"kty": "EC", "crv": "P-256", "x": "x" * 5000, "y": "y" * 5000}},
        "x5c": {"x5c": ["x" * 1000] * 11},
        "jku": {"jku": "https://game.example/" + "x" * 11_000},
        "another member of 11 KB": {"x": "x" * long},
    }
    for name, more in members.items():

        def make(n: int, more: dict[str, object] = more) -> list[bytes]:
            return post(sign_in(sender, sender.compact(header(sender, n=n, **more), _claims(sender, n))))

        yield Kind(f"header: {name}", make)
    yield Kind("header: distinct, refused, 11 KB", lambda n: post(sign_in(sender, _refused(sender, n, long))))


def _refused(sender: Sender, number: int, long: int) -> str:
    return f"{b64(header(sender, n=number, x='x' * long))}.{b64(_claims(sender, number))}.{'A' * 86}"


def signatures(sender: Sender) -> Iterator[Kind]:
    def kind(name: str, signature: bytes) -> Kind:
        start = f"{b64(header(sender))}.{b64(_claims(sender, 0))}."
        return Kind(f"signature: {name}", lambda _: post(sign_in(sender, start + b64(signature))))

    yield kind("one byte", b"x")
    yield kind("63 bytes", b"x" * 63)
    yield kind("65 bytes", b"x" * 65)
    yield kind("11 KB", b"x" * (PART - 300))
    yield kind("zeros", b"\x00" * 64)
    yield kind("r is zero", b"\x00" * 32 + b"x" * 32)
    yield kind("s is zero", b"x" * 32 + b"\x00" * 32)
    yield kind("all ones", b"\xff" * 64)
    yield kind("one and one", (b"\x00" * 31 + b"\x01") * 2)
    yield kind("any other", bytes(range(64)))
    yield kind("DER", b"\x30\x44\x02\x20" + b"\x01" * 32 + b"\x02\x20" + b"\x01" * 32)
    yield kind("of RSA", b"x" * 256)
    yield Kind("signature: over 11 KB, wrong", lambda n: post(sign_in(sender, _over(sender, n))))


def _over(sender: Sender, number: int) -> str:
    return f"{b64(header(sender))}.{b64(_claims(sender, number, x='x' * (PART - 700)))}.{b64(bytes(range(64)))}"


def claims(sender: Sender) -> Iterator[Kind]:
    """Claims of a token with a right signature."""
    room, app = PART - 600, sender.application_id
    members: dict[str, dict[str, object]] = {
        "none more": {},
        "aud is a list of one": {"aud": [app]},
        "aud is a list, ours last": {"aud": [f"{n:05}" for n in range(room // 8)] + [app]},
        "aud is a list of empty strings, ours last": {"aud": [""] * (room // 3) + [app]},
        "aud is a list of empty strings": {"aud": [""] * (room // 3)},
        "aud is a list of strings like ours": {"aud": [app[:-1] + "x"] * (room // (len(app) + 3))},
        "aud is a list of ours": {"aud": [app] * (room // (len(app) + 3))},
        "aud is a list of numbers": {"aud": [1] * (room // 2)},
        "aud is a list, a number last": {"aud": [""] * (room // 3) + [1]},
        "aud is a list of fractions": {"aud": [1.5] * (room // 4)},
        "aud is a list of lists": {"aud": [[]] * (room // 3)},
        "aud is a list of null": {"aud": [None] * (room // 5)},
        "aud is 11 KB": {"aud": "x" * room},
        "aud is an object": {"aud": {f"{n:05}": 1 for n in range(room // 10)}},
        "aud is empty": {"aud": []},
        "iss is 11 KB": {"iss": "x" * room},
        "iss is a list": {"iss": ["x"] * (room // 4)},
        "sub is 255 characters": {"sub": "x" * 255},
        "sub is 255 emoji": {"sub": "😀" * 255},
        "sub is 11 KB": {"sub": "x" * room},
        "sub is 11 KB of emoji": {"sub": "😀" * (room // 12)},
        "sub is unpaired surrogates": {"sub": "\ud83d" * 255},
        "sub is control characters": {"sub": "\x01" * 255},
        "sub is DEL": {"sub": "\x7f" * 255},
        "sub is a number": {"sub": 1},
        "sub is a number of 4,000 digits": {"sub": 10**3999},
        "sub is a list": {"sub": ["x"] * (room // 4)},
        "email and username of the most characters": {"email": "x" * 320, "username": "x" * 255},
        "email and username of emoji": {"email": "😀" * 320, "username": "😀" * 255},
        "email is 11 KB": {"email": "x" * room},
        "username is unpaired surrogates": {"username": "\ud83d" * 255},
        "email is an object": {"email": {f"{n:05}": 1 for n in range(room // 10)}},
        "exp is past": {"exp": 1},
        "exp is in milliseconds": {"exp": 1_800_000_000_000},
        "exp is a number of 4,000 digits": {"exp": 10**3999},
        "exp is a fraction": {"exp": 1e308},
        "exp is text": {"exp": "x" * room},
        "exp is missing": {"exp": None},
        "iat is to come": {"iat": 9_000_000_000},
        "iat is negative": {"iat": -(10**18)},
        "nbf is to come": {"nbf": 9_000_000_000},
        "nbf is a list": {"nbf": [1] * (room // 2)},
        "distinct others": {f"x{n:05}": n for n in range(room // 16)},
        "another of 11 KB": {"x": "x" * room},
    }
    for name, more in members.items():

        def make(n: int, more: dict[str, object] = more) -> list[bytes]:
            return post(sign_in(sender, sender.compact(header(sender), _claims(sender, n, **more))))

        yield Kind(f"claims: {name}", make)
    escaped = fill(b"\\ud83d\\ude00", 3060)
    yield Kind("claims: sub is 255 escaped emoji", lambda n: post(sign_in(sender, _with_sub(sender, n, escaped))))


def _with_sub(sender: Sender, number: int, text: bytes) -> str:
    start = _claims(sender, number, sub="SUB")
    return sender.compact(header(sender), start.replace(b"SUB", text))
