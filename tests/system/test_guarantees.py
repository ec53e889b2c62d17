"""The table of docs/embedding.md: what each ASGI server guarantees, measured on it."""

import contextlib
import re
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.support.asgi import Running, run, server_command
from tests.system.test_servers import COMMANDS, PAGE

HEADER_TIMEOUT_S = 5
CLIENT = "127.0.0.9"  # an address that is in no server's start-up lines
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: game.example\r\nConnection: close\r\n"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(CLIENT, 0))


def send(port: int, data: bytes, timeout_s: float = 10) -> bytes | None:
    """Send bytes and return the response, or None if the server still waits after a time."""
    received = b""
    with connect(port) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.sendall(data)
            while chunk := sock.recv(65536):
                received += chunk
        except TimeoutError:
            return None
        except ConnectionError:
            pass  # closed with unread input
    return received


def is_ok(response: bytes | None) -> bool:
    return response is not None and response.startswith(b"HTTP/1.1 200")


def headers_time_out(running: Running) -> bool:
    return send(running.port, REQUEST + b"X-Unfinished: ", timeout_s=HEADER_TIMEOUT_S + 2.5) is not None


def connections_are_limited(running: Running) -> bool:
    with contextlib.ExitStack() as stack:
        for _ in range(FEW_CONNECTIONS + 3):
            stack.enter_context(connect(running.port))
        return not is_ok(send(running.port, REQUEST + b"\r\n", timeout_s=2))


def headers_are_limited(running: Running) -> bool:
    return not is_ok(send(running.port, REQUEST + b"X-Large: " + b"a" * 33_000 + b"\r\n\r\n"))


def two_hosts_are_rejected(running: Running) -> bool:
    return not is_ok(send(running.port, REQUEST + b"Host: evil.example\r\n\r\n"))


def malformed_http_gets_json(running: Running) -> bool:
    response = send(running.port, b"\x16\x03\x01\r\n\r\n")
    return b'{"error":"invalid_request"' in (response or b"")


def address_is_not_logged(running: Running) -> bool:
    return CLIENT not in running.log.read_text()


def product_is_not_named(running: Running) -> bool:
    response = send(running.port, REQUEST + b"\r\n")
    return is_ok(response) and b"\r\nserver:" not in (response or b"").lower()


def exit_status_is_0(running: Running) -> bool:
    return running.stop() == 0


FEW_CONNECTIONS = 5  # instead of 4,000
GUARANTEES: dict[str, Callable[[Running], bool]] = {
    "headers arrive within 5 s": headers_time_out,
    "at most 4,000 connections are served": connections_are_limited,
    "at most 32 KiB of headers": headers_are_limited,
    "exactly one `Host`": two_hosts_are_rejected,
    "malformed HTTP gets the JSON error": malformed_http_gets_json,
    "no product name in the response": product_is_not_named,
    "no client address in the log": address_is_not_logged,
    "exit status 0 after SIGTERM": exit_status_is_0,
}
TIMEOUT = "headers arrive within 5 s"
LAST = ("no client address in the log", "exit status 0 after SIGTERM")  # they need the requests of the others
HEADINGS, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"(?m)^\| .+ \|$", PAGE)
    if "---" not in line
]


def test_every_guarantee_of_the_table_is_measured():
    assert ["guarantee", "`verifier serve`", *COMMANDS] == HEADINGS
    assert [row[0] for row in ROWS] == list(GUARANTEES)


def measure(command: list[str], port: int, folder: Path, environment: dict[str, str]) -> dict[str, bool]:
    """Whether a server gives each guarantee."""
    with run(command, port, folder, environment) as running, ThreadPoolExecutor() as pool:
        timeout = pool.submit(headers_time_out, running)  # beside the others, because it waits for seconds
        found = {name: check(running) for name, check in GUARANTEES.items() if name != TIMEOUT and name not in LAST}
        found[TIMEOUT] = timeout.result()
        return found | {name: GUARANTEES[name](running) for name in LAST}


def commands(server: str, cells: list[str]) -> dict[int, list[str]]:
    """The commands to measure, by port: without the options that the table names, and with them."""
    ports = free_port(), free_port()
    if server == "verifier serve":
        return {ports[0]: [sys.executable, "-m", "verifier", "serve", "--port", str(ports[0])]}
    options = [option for cell in cells for option in re.findall(r"`(.+?)`", cell)]
    plain = COMMANDS[server]
    for option in options:
        plain = plain.replace(f" {option}", "")
    lines = [plain, " ".join([plain, *options])] if options else [plain]
    few = [line.replace("4000", str(FEW_CONNECTIONS)) for line in lines]
    return {port: server_command(line, port) for port, line in zip(ports, few, strict=False)}


@pytest.mark.parametrize("server", ["verifier serve", *COMMANDS])
def test_the_table_of_guarantees_is_true(server, game, game_environment):
    column = [name.strip("`") for name in HEADINGS].index(server)
    cells = {row[0]: row[column] for row in ROWS}
    environment = game_environment | {"VERIFIER_MAX_CONNECTIONS": str(FEW_CONNECTIONS)}
    with ThreadPoolExecutor() as pool:
        variants = commands(server, list(cells.values())).items()
        results = list(pool.map(lambda variant: measure(variant[1], variant[0], game, environment), variants))
    for with_options, found in enumerate(results):
        assert found == {name: cell == "yes" or (cell != "no" and bool(with_options)) for name, cell in cells.items()}
