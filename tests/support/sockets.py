"""Raw bytes over real sockets: send them, read the responses, wait for a condition."""

import json
import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress


def exchange(port: int, data: bytes, *, half_close: bool = True, timeout: float = 10) -> list[tuple[int, str]]:
    """Send raw bytes, read to the end; status and text of every answer (the profile's id for a 200)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        raw = b""
        while block := sock.recv(65_536):
            raw += block
    answers = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        assert b"cache-control: no-store" in head.lower() or b" 100 " in head
        assert b"server:" not in head.lower()
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
        body, raw = json.loads(raw[:length] or b"{}"), raw[length:]
        answers.append((int(head.split()[1]), str(body.get("error_description", body.get("_id")))))
    return answers


def post(body: object, *headers: bytes, length: int | None = None, line: bytes = b"POST /profile HTTP/1.1") -> bytes:
    raw = json.dumps(body).encode()
    head = [line, b"Content-Type: application/json", *(headers or [b"Host: game.example"])]
    return b"\r\n".join([*head, b"Content-Length: %d" % (len(raw) if length is None else length), b"", raw])


def until(condition, seconds: float = 2.5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def connections(port: int, count: int, data: bytes = b""):
    """Open connections, each of which has sent something."""
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(count)]
        for sock in opened:
            sock.sendall(data)
        time.sleep(0.3)
        yield opened


def answer(sock: socket.socket) -> bytes:
    """One whole answer."""
    found = b""
    while not found.endswith(b"}"):
        found += sock.recv(1000)
    return found


def seconds_until_closed(sock: socket.socket) -> tuple[float, bytes]:
    began, found = time.monotonic(), b""
    # It is reset if a byte arrives together with the end.
    with suppress(ConnectionResetError):
        while block := sock.recv(65_536):
            found += block
    return time.monotonic() - began, found


@contextmanager
def trickling(sock: socket.socket, data: bytes):
    """Meanwhile, send a byte every 0.1 s."""
    stop = threading.Event()

    def send():
        with suppress(OSError):
            for byte in data:
                if stop.wait(0.1):
                    return
                sock.sendall(bytes([byte]))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
