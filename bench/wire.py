"""A client for single requests of any content, in pieces or cut off; it never sleeps while it waits."""

import re
import socket
import struct
import time
from collections import Counter

from bench.kinds import Kind

PATIENCE_S = 10.0


def exchange(wires: "list[Wire]", requests: list[list[bytes]], kind: Kind) -> Counter[str]:
    """Send a request on each connection, and return how often each status came, or how the connection ended."""
    for wire, pieces in zip(wires, requests, strict=False):
        wire.begin(pieces, kind)
    waiting = wires[: len(requests)]
    deadline = time.monotonic() + PATIENCE_S
    while waiting:
        for wire in waiting:
            wire.step()
        waiting = [wire for wire in waiting if not wire.done]
        if waiting and time.monotonic() > deadline:
            for wire in waiting:
                wire.end("no response")
            break
    return Counter(outcome for wire in wires[: len(requests)] for outcome in wire.outcomes)


class Wire:
    """A connection that is made anew for the next request when it has ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sock: socket.socket | None = None

    def begin(self, pieces: list[bytes], kind: Kind) -> None:
        """Prepare a request; `step` sends it."""
        if self.sock is None:
            self.sock = socket.create_connection(("127.0.0.1", self.port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setblocking(False)
        self.kind, self.left, self.received = kind, list(pieces), bytearray()
        self.outcomes: list[str] = []
        self.unsent = b""
        self.done = self.ended = False

    def step(self) -> None:
        """Send a piece and read what there is, without waiting."""
        assert self.sock is not None
        try:
            self._send(self.sock)
            if self.kind.hangs_up and not (self.unsent or self.left):
                if self.kind.resets:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.end("left")
                return
            data = self.sock.recv(262_144)
        except BlockingIOError:
            pass
        except OSError:
            self.end("reset")
            return
        else:
            if not data:
                self.end("closed")
                return
            self.received += data
            self._read()
        if not (self.unsent or self.left):
            self.done = self.done or 0 < self.kind.responses <= len(self.outcomes)

    def _send(self, sock: socket.socket) -> None:
        if self.unsent or self.left:
            data = self.unsent or self.left.pop(0)
            self.unsent = data
            self.unsent = data[sock.send(data) :]
        if self.kind.ends and not (self.unsent or self.left or self.ended):
            self.ended = True
            sock.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        while not self.done and (end := self.received.find(b"\r\n\r\n")) >= 0:
            top = bytes(self.received[:end]).lower()
            status = top[9:12].decode()
            length = re.search(rb"content-length: (\d+)", top)
            more = int(length[1]) if length and not self.kind.head_only else 0
            if len(self.received) < end + 4 + more:
                return
            del self.received[: end + 4 + more]
            if status != "100":
                self.outcomes.append(status)
            if b"connection: close" in top:
                self.end("")

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def end(self, outcome: str) -> None:
        self.close()
        self.done = True
        if outcome and not self.outcomes:
            self.outcomes.append(outcome)
