"""Server processes: when they first respond, the processor time and the memory they use."""

import http.client
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SERVER_CORE, CLIENT_CORE = "0", "1"


class First(NamedTuple):
    """The first response of a server."""

    body: bytes
    after_s: float  # since the process was started


@contextmanager
def running(line: list[str], environment: dict[str, str]) -> Iterator[Any]:
    """Start a process, and terminate it in any case."""
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def first_response(process: Any, port: int, body: bytes, status: int, since: float) -> First:
    """Post a body until there is a response, which must have this status."""
    while process.poll() is None and time.monotonic() - since < 30:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/profile", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != status:
                raise SystemExit(f"status {response.status} (expected {status}): {response.read()!r}")
            return First(response.read(), time.monotonic() - since)
        except OSError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise SystemExit("the server did not start")


def tree(pid: int) -> list[int]:
    """List a process and its descendants."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for number in child.read_text().split():
            found += tree(int(number))
    return found


def cpu_s(pids: list[int]) -> float:
    """Sum up the seconds on a processor, in user and system mode (proc_pid_stat(5), fields 14 and 15)."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def cpu_ns(pids: list[int]) -> int:
    """Sum up the same in nanoseconds (proc_pid_schedstat(5)), for measurements shorter than a second."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def rss_mib(pids: list[int]) -> float:
    """Sum up the resident memory."""
    text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+) kB", text)) / 1024


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
