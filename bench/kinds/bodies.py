"""Kinds of bodies: every JSON shape, alone and within a good sign-in, and the three fields."""

import json
from collections.abc import Iterator

from bench.kinds import MAX_BODY_BYTES, Kind, Sender, fill, head, post, sign_in
from bench.kinds.shapes import SHAPES, Shape


def _good(sender: Sender, number: int) -> bytes:
    header = {"alg": "ES256", "kid": sender.kid, "typ": "at+jwt"}
    return sign_in(sender, sender.compact(json.dumps(header).encode(), json.dumps(sender.claims(number)).encode()))


def alone(_: Sender) -> Iterator[Kind]:
    def kind(name: str, shape: Shape) -> Kind:
        return Kind(f"body: {name}", lambda _: post(shape(MAX_BODY_BYTES)))

    yield from (kind(name, shape) for name, shape in SHAPES.items())
    yield Kind("body: empty", lambda _: post(b""))
    yield Kind("body: an empty object", lambda _: post(b"{}"))
    yield Kind("body: one byte over the limit", lambda _: post(b"x" * (MAX_BODY_BYTES + 1)))
    yield Kind("body: ten times the limit", lambda _: post(b"x" * MAX_BODY_BYTES * 10))
    yield Kind("body: ten times the limit, half of it sent", lambda _: [head(MAX_BODY_BYTES * 10) + b"x" * 82_000])
    yield Kind("body: cut off by FIN", lambda _: [head(500) + b"{"], ends=True)


def within(sender: Sender) -> Iterator[Kind]:
    """A good sign-in with one more member of each shape."""

    def kind(name: str, shape: Shape) -> Kind:
        def make(number: int) -> list[bytes]:
            start = _good(sender, number)[:-1] + b',"more":'
            return post(start + shape(MAX_BODY_BYTES - len(start) - 1) + b"}")

        return Kind(f"beside a good token: {name}", make)

    yield from (kind(name, shape) for name, shape in SHAPES.items())


def fields(sender: Sender) -> Iterator[Kind]:
    long = MAX_BODY_BYTES - 200

    def kind(name: str, code: object, secret: object, application: object, *, ascii_only: bool = True) -> Kind:
        members = {"code": code, "secretKey": secret, "applicationId": application}
        body = json.dumps(members, ensure_ascii=ascii_only, separators=(",", ":")).encode()
        return Kind(f"fields: {name}", lambda _: post(body))

    secret, application = sender.secret, sender.application_id
    yield kind("wrong secret", "x.y.z", "wrong", application)
    yield kind("wrong secret, 16 KB", "x.y.z", "x" * long, application)
    yield kind("wrong secret, 16 KB of emoji", "x.y.z", "😀" * (long // 4), application, ascii_only=False)
    yield kind("wrong secret, 16 KB of escaped emoji", "x.y.z", "😀" * (long // 12), application)
    yield kind("wrong secret, unpaired surrogates", "x.y.z", "\ud83d" * (long // 6), application)
    yield kind("wrong secret and a code of 16 KB", "x" * long, "wrong", application)
    yield kind("unknown application", "x.y.z", secret, "unknown")
    yield kind("unknown application, 16 KB", "x.y.z", secret, "x" * long)
    yield kind("unknown application, 16 KB of escaped emoji", "x.y.z", secret, "😀" * (long // 12))
    yield kind("unknown application, unpaired surrogates", "x.y.z", secret, "\ud83d" * (long // 6))
    for name, value in {"empty": "", "null": None, "a number": 1, "true": True, "a list": ["x"] * 3000}.items():
        yield kind(f"code is {name}", value, secret, application)
        yield kind(f"secretKey is {name}", "x.y.z", value, application)
        yield kind(f"applicationId is {name}", "x.y.z", secret, value)
    yield Kind("fields: names in escapes", lambda _: post(_escaped(sender)))
    spread = fill(b" ", MAX_BODY_BYTES // 2)
    yield Kind(
        "fields: a good token, spread with white space",
        lambda n: post(_good(sender, n).replace(b":", b":" + spread, 1)),
    )


def _escaped(sender: Sender) -> bytes:
    code = "".join(f"\\u{ord(letter):04x}" for letter in "x" * 2000)
    return f'{{"\\u0063ode":"{code}","secretKey":"{sender.secret}","applicationId":"{sender.application_id}"}}'.encode()
