"""What is measured, and the targets that it is held against."""

from typing import NamedTuple

from bench.client import Load
from bench.servers import (
    BARE,
    BUN_JOSE,
    FASTAPI,
    FASTIFY,
    GO,
    GRANIAN,
    HYPERCORN,
    OURS,
    RAW,
    RUST,
    STARLETTE,
    UNBATCHED,
    UVICORN,
)
from bench.world import Conditions

SLOW = 2000  # slow senders
_START = b"POST /profile HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Row(NamedTuple):
    """One thing that is measured."""

    label: str
    server: str = OURS
    conditions: Conditions = Conditions()
    load: Load = Load()
    share: float = 0.0  # of the most requests/s, as the rate of an open loop
    workers: int = 1
    log_level: str = "info"  # at info, a line per request
    changing: bool = False  # a key file is replaced twice a second, so that every read finds a change
    slow: bytes | None = None  # what each of SLOW further connections has sent, and no more; None: there are none


class Target(NamedTuple):
    """A limit for a figure of one row, or for its ratio to the sum of that figure over other rows."""

    row: str
    others: tuple[str, ...]
    limit: float
    figure: str = "cpu_us"
    at_least: bool = False


def _peers(alg: str) -> list[Row]:
    servers = (OURS, FASTAPI, STARLETTE, FASTIFY, GO, RUST, BUN_JOSE, BARE, RAW)
    return [Row(name, name, Conditions(alg)) for name in servers]


def _connections(alg: str) -> list[Row]:
    return [
        Row(f"{server}, {number} connections", server, Conditions(alg), Load("keep", number))
        for number in (1, 8, 64)
        for server in (OURS, FASTAPI, FASTIFY, GO)
    ]


def _new(alg: str) -> list[Row]:
    return [
        Row(name, name, Conditions(alg), Load("new")) for name in (OURS, FASTAPI, FASTIFY, GO, RUST, BUN_JOSE, BARE)
    ]


def _latency(alg: str) -> list[Row]:
    load = Load("open", 64)
    return [Row(name, name, Conditions(alg), load, 0.5) for name in (OURS, FASTAPI, FASTIFY, GO, RUST, BUN_JOSE)]


def _variants(alg: str) -> list[Row]:
    conditions = Conditions(alg)
    return [
        Row("as it is", OURS, conditions),
        Row("each response written on its own", UNBATCHED, conditions),
        Row("no log line per request", OURS, conditions, log_level="warning"),
        Row("client sleeps", OURS, conditions, Load(sleeps=True)),
        Row("client sleeps, each response written on its own", UNBATCHED, conditions, Load(sleeps=True)),
        Row(f"client sleeps, {GO}", GO, conditions, Load(sleeps=True)),
    ]


def _rejected(alg: str) -> list[Row]:
    return [Row(load, OURS, Conditions(alg, load)) for load in ("good", "wrong secret", "garbage", "expired")]


def _workers(alg: str) -> list[Row]:
    # One core is shared with the client, so it must leave it to the server when there is nothing to do.
    return [Row(f"{number} workers", OURS, Conditions(alg), Load(sleeps=True), workers=number) for number in (1, 2)]


def _changing() -> list[Row]:
    one, many, load = Conditions(), Conditions(keys=1000), Load("open", 64)
    rows = [Row("1 key", OURS, one, load, 0.5), Row("1000 keys", OURS, many, load, 0.5)]
    return [*rows, Row("1000 keys, one changing", OURS, many, load, 0.5, changing=True)]


TABLES: dict[str, list[Row]] = {
    "ES256": _peers("ES256"),
    "RS256": _peers("RS256"),
    "EdDSA": _peers("EdDSA"),
    "connections ES256": _connections("ES256"),
    "connections RS256": _connections("RS256"),
    "new connections ES256": _new("ES256"),
    "new connections RS256": _new("RS256"),
    "latency ES256": _latency("ES256"),
    "latency RS256": _latency("RS256"),
    "variants ES256": _variants("ES256"),
    "variants RS256": _variants("RS256"),
    "servers": [Row(name, name) for name in (OURS, UVICORN, GRANIAN, HYPERCORN)],
    "rejected ES256": _rejected("ES256"),
    "rejected RS256": _rejected("RS256"),
    "workers ES256": _workers("ES256"),
    "workers RS256": _workers("RS256"),
    "keys": [Row(f"{number} keys and applications", conditions=Conditions(keys=number)) for number in (1, 10, 1000)],
    "changing keys": _changing(),
    "slow senders": [
        Row("no other connection"),
        Row(f"{SLOW} that send nothing", slow=b""),
        Row(f"{SLOW} in the middle of the headers", slow=b"POST /profile HTTP/1.1\r\nX: "),
        Row(f"{SLOW} in the middle of a body", slow=_START + b"Content-Length: 500\r\n\r\n{"),
    ],
    "tokens": [Row(f"tokens of {size} bytes", conditions=Conditions(token_bytes=size)) for size in (300, 2000, 8000)],
}


def _against_peers(fastapi: float, fastify: float, floors: float) -> list[Target]:
    return [
        Target(OURS, (FASTAPI,), fastapi),
        Target(OURS, (FASTIFY,), fastify),
        Target(OURS, (GO,), 1.05),
        Target(OURS, (BARE, RAW), floors),
        Target(OURS, (), 0.30, "first_s"),
        Target(OURS, (), 48, "rss_mib"),
    ]


_NEW = [Target(OURS, (FASTAPI,), 0.50), Target(OURS, (GO,), 1.20)]
_REJECTED = [Target("wrong secret", ("good",), 0.35), Target("garbage", ("good",), 0.35)]
_WORKERS = [Target("2 workers", ("1 workers",), 1.11)]  # with a core each, two do 2 / 1.11 = 1.8 of one
TARGETS: dict[str, list[Target]] = {
    "ES256": _against_peers(0.37, 0.88, 1.35),
    "RS256": _against_peers(0.24, 0.78, 1.40),
    "new connections ES256": _NEW,
    "new connections RS256": _NEW,
    "rejected ES256": _REJECTED,
    "rejected RS256": _REJECTED,
    "workers ES256": _WORKERS,
    "workers RS256": _WORKERS,
    "keys": [Target("1000 keys and applications", ("1 keys and applications",), 1.05)],
    "changing keys": [Target("1000 keys, one changing", ("1000 keys",), 2, "p99_ms")],
}
