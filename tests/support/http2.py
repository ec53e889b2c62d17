"""Frames of HTTP/2 (RFC 9113), well-formed or not, for a client that does not read its responses."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    """Encode fields as literals without a table or a Huffman code (RFC 7541 6.2.2)."""
    return b"".join(b"\0%b%b" % (_string(name), _string(value)) for name, value in pairs)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    assert len(data) < 127  # a longer one takes more bytes for its length
    return bytes([len(data)]) + data


def start() -> bytes:
    """Return what a client sends first."""
    return PREFACE + frame(SETTINGS, 0, 0)


def post(
    stream: int, *others: tuple[str, str], authority: str, path: str = "/profile", method: str = "POST", flags: int = 0
) -> bytes:
    """Return the headers of a request; without END_STREAM, its body follows."""
    known = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
    return frame(HEADERS, END_HEADERS | flags, stream, fields(*known, *others))


def body(stream: int, data: bytes, *, last: bool = False) -> bytes:
    return frame(DATA, END_STREAM * last, stream, data)


def trailer(stream: int, *pairs: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(*pairs))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", 8))  # CANCEL
