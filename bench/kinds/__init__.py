"""The kinds of input whose cost is measured by bench/inputs.py: every shape that a body, a head, a token or a
connection can take within the limits. Adds no opinion on the response; only the cost is judged.
"""

import json
from collections.abc import Callable
from typing import NamedTuple, Protocol

MAX_BODY_BYTES = 16_384
MAX_HEAD_BYTES = 32_768


class Kind(NamedTuple):
    """One kind of input."""

    name: str
    make: Callable[[int], list[bytes]]  # the n-th request, in the pieces in which it is sent
    responses: int = 1  # of pipelined requests; the cost is that of one. 0: until the connection ends
    head_only: bool = False  # the response has no body (HEAD)
    ends: bool = False  # the client sends FIN behind it
    hangs_up: bool = False  # the client closes at once, without reading
    resets: bool = False  # the client closes with RST instead of FIN


class Sender(Protocol):
    """What the kinds need to know of the server that they are sent to."""

    application_id: str
    secret: str
    kid: str

    def claims(self, number: int) -> dict[str, object]: ...

    def compact(self, header: bytes, payload: bytes) -> str:
        """Sign a header and a payload of any content with the right key."""
        ...


def head(length: int | None, *lines: bytes, method: bytes = b"POST", target: bytes = b"/profile") -> bytes:
    """A request head as escs would send it, plus further header lines."""
    known = [b"%b %b HTTP/1.1" % (method, target), b"Host: 127.0.0.1", b"Content-Type: application/json", *lines]
    if length is not None:
        known.append(b"Content-Length: %d" % length)
    return b"\r\n".join(known) + b"\r\n\r\n"


def post(body: bytes, *lines: bytes) -> list[bytes]:
    """A complete request in one piece."""
    return [head(len(body), *lines) + body]


def sign_in(sender: Sender, code: str, **others: object) -> bytes:
    """The body of a sign-in with the right secret, and perhaps other members."""
    members = {"code": code, "secretKey": sender.secret, "applicationId": sender.application_id} | others
    return json.dumps(members, separators=(",", ":")).encode()


def fill(unit: bytes, size: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """As many whole units as fit into a size, between what comes before and after."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after
