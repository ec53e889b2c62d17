"""Measures the server against its peers and its floors: `make bench`, or `make bench BENCH="--quick ES256"`.

Every round starts each server once, in turn (A B C A B C), pinned to one core; wrk drives it from the other.
CPU time per request is the figure that holds on a machine with other work to do.
"""

import argparse
import functools
import http.client
import json
import os
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier.core import jwk
from verifier.core.applications import Application, Applications, Secret
from verifier.core.encoding import b64url_encode
from verifier.signing.keystore import PrivateKey

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
ISSUER, SECRET, LIFETIME_S = "https://game.example", "a-secret-of-the-benchmark", 3600
TOKENS, CONNECTIONS, WARM_S = 10_000, 16, 1.0
SERVER_CORE, CLIENT_CORE = "0", "1"
SLOW = 2000
HEAD = b"POST /profile HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
GOLANG_JWT = Path("/usr/share/gocode/src/github.com/golang-jwt/jwt")  # where Debian puts it
RESOURCE_EXHAUSTED, FASTAPI, STARLETTE, FASTIFY = (
    "verifier",
    "FastAPI + PyJWT",
    "Starlette + PyJWT decode",
    "Fastify + fast-jwt",
)
GO, BARE, RAW = "Go net/http + golang-jwt", "floor: bare ASGI", "floor: signature check"


class Row(NamedTuple):
    """One thing that is measured."""

    label: str
    server: str = RESOURCE_EXHAUSTED
    alg: str = "ES256"
    load: str = "good"  # or "wrong secret", "garbage", "expired"
    workers: int = 1
    keys: int = 1  # and as many applications
    octets: int = 500  # of a token
    log: str = "info"  # the least that is logged; at info a line per request
    slow: bytes | None = None  # what each of SLOW other connections has sent, and no more; None: there are none

    def conditions(self) -> "Row":
        """What its world depends on."""
        return self._replace(label="", server="", workers=1, log="info", slow=None)


class Figures(NamedTuple):
    """What one round gave."""

    per_s: float
    cpu_us: float  # per request
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    rss_mib: float = 0.0
    first_s: float = 0.0
    errors: int = 0


class Target(NamedTuple):
    """A figure of one row, held against the sum of that of others."""

    row: str
    others: tuple[str, ...]
    limit: float
    figure: str = "cpu_us"


def peers(alg: str) -> list[Row]:
    rows = [Row(name, name, alg) for name in (RESOURCE_EXHAUSTED, FASTAPI, STARLETTE, FASTIFY, GO, BARE, RAW)]
    return [*rows, Row("verifier without a log line per request", RESOURCE_EXHAUSTED, alg, log="warning")]


TABLES: dict[str, list[Row]] = {
    "ES256": peers("ES256"),
    "RS256": peers("RS256"),
    "EdDSA": peers("EdDSA"),
    "refused": [Row(load, load=load) for load in ("good", "wrong secret", "garbage", "expired")],
    "workers": [Row(f"{n} workers", workers=n) for n in (1, 2)],
    "keys": [Row(f"{n} keys and applications", keys=n) for n in (1, 10, 1000)],
    "slow senders": [
        Row("no other connection"),
        Row(f"{SLOW} that send nothing", slow=b""),
        Row(f"{SLOW} in the middle of a head", slow=b"POST /profile HTTP/1.1\r\nX: "),
        Row(f"{SLOW} in the middle of a body", slow=HEAD + b"Content-Length: 500\r\n\r\n{"),
    ],
    "tokens": [Row(f"tokens of {n} octets", octets=n) for n in (300, 2000, 8000)],
}
_AGAINST_PEERS = [
    Target(RESOURCE_EXHAUSTED, (FASTAPI,), 0.45),
    Target(RESOURCE_EXHAUSTED, (STARLETTE,), 0.60),
    Target(RESOURCE_EXHAUSTED, (FASTIFY,), 0.95),
]
TARGETS: dict[str, list[Target]] = {
    "ES256": [*_AGAINST_PEERS, Target(RESOURCE_EXHAUSTED, (GO,), 1.05), Target(RESOURCE_EXHAUSTED, (BARE, RAW), 1.45)],
    "RS256": [*_AGAINST_PEERS, Target(RESOURCE_EXHAUSTED, (GO,), 1.00), Target(RESOURCE_EXHAUSTED, (BARE, RAW), 1.45)],
    "refused": [Target("wrong secret", ("good",), 0.6), Target("garbage", ("good",), 0.7)],
    # With a core each, two do 2 / 1.11 = 1.8 of one; the requests of a second also tell what wrk took of two cores.
    "workers": [Target("2 workers", ("1 workers",), 1.11), Target("2 workers", ("1 workers",), 1.8, "per_s")],
    "keys": [Target("1000 keys and applications", ("1 keys and applications",), 1.05)],
}


class World(NamedTuple):
    """Keys, applications and requests on disk, and the environment that points there."""

    environment: dict[str, str]
    bodies: Path
    profile: dict[str, str]  # that the first body gives


@functools.cache
def key(alg: str, _number: int) -> PrivateKey:
    made: Any = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[alg]()
    return PrivateKey(jwk.dump(made.public_key())["kid"], alg, made)


def token(signer: PrivateKey, application_id: str, number: int, iat: int, octets: int) -> str:
    """A token like those of `tokens.issue`, distinct by its number, about so long."""
    header = {"alg": signer.alg, "kid": signer.kid, "typ": "at+jwt"}
    sub, exp = f"player-{number}", iat + LIFETIME_S
    claims: dict[str, Any] = {"iss": ISSUER, "aud": application_id, "sub": sub, "iat": iat, "exp": exp}
    if octets > 300:
        claims |= {"jti": f"{number:022}", "client_id": application_id}
        claims |= {"email": f"{sub}@game.example", "username": f"Player {number}"}
    if octets > 500:
        claims["permissions"] = ["x" * 40] * ((octets - 500) * 3 // 4 // 43)
    parts = (b64url_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signing_input = ".".join(parts)
    return f"{signing_input}.{b64url_encode(signer.sign(signing_input.encode()))}"


def prepare(folder: Path, row: Row, count: int = TOKENS) -> World:
    """What a server needs for a row, and the requests it will get; made new, as tokens expire."""
    (folder / "public").mkdir(parents=True)
    now = int(time.time())
    keys = [key(row.alg, number) for number in range(row.keys)]
    for signer in keys:
        members = jwk.dump(signer.key.public_key()) | {"iat": now - 60, "nbf": now - 60}
        (folder / "public" / f"{signer.kid}.json").write_text(json.dumps(members))
    ids = [f"application-{number:04}" for number in range(row.keys)]
    known = Applications(Application(name, (Secret.of(SECRET),)) for name in ids)
    (folder / "applications.json").write_bytes(known.dump())
    pem = keys[0].key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(pem)
    iat = now - 2 * LIFETIME_S if row.load == "expired" else now
    with (folder / "bodies").open("w") as file:
        for number in range(count):
            name = ids[number % row.keys]
            code = token(keys[number % row.keys], name, number, iat, row.octets)
            if row.load == "garbage":
                code = code.swapcase()
            secret = "wrong" * 5 if row.load == "wrong secret" else SECRET
            body = {"code": code, "secretKey": secret, "applicationId": name}
            file.write(json.dumps(body, separators=(",", ":")) + "\n")  # as JSON.stringify writes it
    environment = os.environ | {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(folder),
        "VERIFIER_APPLICATIONS": str(folder / "applications.json"),
        "VERIFIER_MAX_LIFETIME": str(LIFETIME_S),
        "VERIFIER_WORKERS": str(row.workers),
        "ISSUER": ISSUER,
        "ALG": row.alg,
        "APPLICATION_ID": ids[0],
        "SECRET": SECRET,
        "KID": keys[0].kid,
        "PUBLIC": str(folder / "public.pem"),
        "MAX_LIFETIME": str(LIFETIME_S),
        "NODE_ENV": "production",
        "GOMAXPROCS": "1",
    }
    profile = {"_id": "player-0", "email": "player-0@game.example", "username": "Player 0"}
    return World(environment, folder / "bodies", profile)


def command(server: str, build: Path, python: str = sys.executable) -> list[str] | str:
    """How a server is started, or why it cannot be."""
    peers_ = HERE / "peers"
    if server == RESOURCE_EXHAUSTED:
        return [python, "-m", "verifier", "serve"]
    if server == GO:
        if not shutil.which("go") or not GOLANG_JWT.is_dir():
            return "needs Debian's golang-go and golang-github-golang-jwt-jwt-dev"
        if not (build / "peer").exists():
            module = "github.com/golang-jwt/jwt/v4"
            lines = f"module peer\n\ngo 1.16\n\nrequire {module} v4.0.0\n\nreplace {module} => {GOLANG_JWT}\n"
            (build / "go.mod").write_text(lines)
            shutil.copy(peers_ / "main.go", build)
            settings = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "on"}
            subprocess.run(["go", "build", "-o", "peer", "main.go"], cwd=build, env=settings, check=True)
        return [str(build / "peer")]
    if server == FASTIFY:
        if not shutil.which("node") or not (peers_ / "node_modules").is_dir():
            return "needs node, and npm ci in bench/peers"
        return ["node", str(peers_ / "fastify.mjs")]
    if server == FASTAPI and subprocess.run([python, "-c", "import fastapi"], capture_output=True).returncode:
        return "needs bench/requirements.lock"
    scripts = {FASTAPI: "fastapi_pyjwt", STARLETTE: "starlette_pyjwt", BARE: "bare", RAW: "raw"}
    return [python, str(peers_ / f"{scripts[server]}.py")]


def first_answer(process: Any, port: int, body: bytes, wanted: int, since: float) -> tuple[Any, float]:
    """The first answer and its seconds since the start."""
    while process.poll() is None and time.monotonic() - since < 30:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/profile", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != wanted:
                raise SystemExit(f"status {answer.status} (expected {wanted}): {answer.read()!r}")
            return json.loads(answer.read()), time.monotonic() - since
        except OSError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise SystemExit("the server did not start")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for number in child.read_text().split():
            found += tree(int(number))
    return found


def cpu_s(pids: list[int]) -> float:
    """Seconds on a processor so far, in user and system mode (proc_pid_stat(5), fields 14 and 15)."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def rss_mib(pids: list[int]) -> float:
    """Resident memory."""
    text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+) kB", text)) / 1024


def parse_wrk(output: str) -> dict[str, Any]:
    """The line of JSON that walk.lua ends with."""
    return json.loads(output.strip().splitlines()[-1])


def wrk(port: int, world: World, wanted: int, seconds: float, core: str) -> dict[str, Any]:
    line = ["taskset", "-c", core, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", HERE / "walk.lua"]
    line += [f"http://127.0.0.1:{port}/profile", "--", world.bodies, wanted]
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, check=True)
    return parse_wrk(done.stdout)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def slow_senders(port: int, sent: bytes | None) -> Iterator[None]:
    """SLOW connections that have begun and do not go on. A server cuts them after 5 s; wrk is done before."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        for _ in range(0 if sent is None else SLOW):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(sent or b"")
        time.sleep(0 if sent is None else 1)  # until they are all read
        yield


def measure(row: Row, line: list[str], world: World, seconds: float) -> Figures:
    """One round of one row."""
    # Two workers and wrk have two cores between them.
    server_core, client_core = (SERVER_CORE, CLIENT_CORE) if row.workers == 1 else ("0,1", "0,1")
    pinned = ["taskset", "-c", server_core, *line]
    if row.server == RAW:
        pinned += [str(world.bodies), str(seconds)]
        done = subprocess.run(pinned, env=world.environment, capture_output=True, text=True, check=True)
        raw = json.loads(done.stdout)
        return Figures(raw["requests"] / raw["seconds"], raw["cpu_s"] / raw["requests"] * 1e6)
    port = free_port()
    environment = world.environment | {"VERIFIER_PORT": str(port), "PORT": str(port)}
    wanted = 200 if row.load == "good" or row.server == BARE else 401
    body = world.bodies.open("rb").readline()
    since = time.monotonic()
    process = subprocess.Popen(pinned, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answer, first_s = first_answer(process, port, body, wanted, since)
        if wanted == 200 and row.server != BARE and row.octets > 300 and answer != world.profile:
            raise SystemExit(f"{row.server} answers {answer}")
        wrk(port, world, wanted, WARM_S, client_core)
        pids = tree(process.pid)
        with slow_senders(port, row.slow):
            before = cpu_s(pids)
            done = wrk(port, world, wanted, seconds, client_core)
            cpu_us = (cpu_s(pids) - before) / done["requests"] * 1e6
        per_s = done["requests"] / done["seconds"]
        return Figures(per_s, cpu_us, done["p50_ms"], done["p99_ms"], rss_mib(pids), first_s, done["errors"])
    finally:
        process.terminate()
        process.wait()


def ratio(above: list[float], below: list[float]) -> str:
    """The median of the ratios round by round, and their range."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


COLUMNS = (
    ("CPU µs/request", "cpu_us", ".0f"),
    ("requests/s", "per_s", ",.0f"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("RSS MiB", "rss_mib", ".0f"),
    ("first answer s", "first_s", ".2f"),
)


def report(rows: dict[str, list[Figures]], targets: list[Target]) -> str:
    """The tables of one run in Markdown: medians, and ratios to the first row."""
    first = next(iter(rows.values()))
    lines = [" | ".join(["", *(title for title, _, _ in COLUMNS), "errors |"]), "| --- " * (len(COLUMNS) + 2) + "|"]
    lines[0] = f"| {lines[0]}"
    for label, rounds in rows.items():
        cells = [label]
        for _, name, form in COLUMNS:
            mine, base = ([getattr(figures, name) for figures in each] for each in (rounds, first))
            compared = f" × {ratio(mine, base)}" if rounds is not first and all(base) else ""
            cells.append(f"{statistics.median(mine):{form}}{compared}" if any(mine) else "")
        lines.append(f"| {' | '.join([*cells, str(sum(f.errors for f in rounds))])} |")
    targets = [target for target in targets if {target.row, *target.others} <= rows.keys()]
    if targets:
        lines += ["", "| ratio | measured | target |", "| --- | --- | --- |"]
    for row, others, limit, name in targets:
        mine = [getattr(figures, name) for figures in rows[row]]
        below = [sum(getattr(f, name) for f in each) for each in zip(*(rows[other] for other in others), strict=True)]
        title = {"cpu_us": "CPU", "per_s": "requests/s"}[name]
        bound = "at least" if name == "per_s" else "at most"
        lines.append(f"| {title}: {row} / {' + '.join(others)} | {ratio(mine, below)} | {bound} {limit} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Where and with what it ran."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    names = ("uvicorn", "uvloop", "httptools", "starlette", "pyjwt", "cryptography", "fastapi")
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except ModuleNotFoundError:
            continue
    for program in (["node", "--version"], ["go", "version"]):
        if shutil.which(program[0]):
            found.append(subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip())
    return f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}; {', '.join(found)}."


def write(name: str, text: str) -> None:
    """Put a section of RESULTS.md in its place between its markers, or at the end."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    begin, end = f"<!-- bench {name} -->\n", f"<!-- end of bench {name} -->\n"
    section = begin + text + end
    if begin in old:
        RESULTS.write_text(old[: old.index(begin)] + section + old[old.index(end) + len(end) :])
    else:
        RESULTS.write_text(f"{old}\n{section}")


def run(name: str, rows: list[Row], rounds: int, seconds: float) -> str:
    """Measure one table, round by round; what cannot be started is left out, with the reason."""
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        lines, worlds, notes = {}, {}, []
        for row in rows:
            line = command(row.server, Path(scratch))
            if isinstance(line, str):
                notes.append(f"Left out: {row.label} ({line}).\n")
                continue
            lines[row] = line
            conditions = row.conditions()
            if conditions not in worlds:
                worlds[conditions] = prepare(Path(scratch) / str(len(worlds)), row)
        for number in range(rounds):
            for row, line in lines.items():
                world = worlds[row.conditions()]
                world.environment.update(VERIFIER_WORKERS=str(row.workers), VERIFIER_LOG_LEVEL=row.log)
                one = measure(row, line, world, seconds)
                figures.setdefault(row.label, []).append(one)
                print(f"{name} {number + 1}/{rounds} {row.label}: {one.cpu_us:.1f} µs", file=sys.stderr, flush=True)
    when = f"{time.strftime('%Y-%m-%d')}, {rounds} rounds of {seconds:g} s, {CONNECTIONS} connections."
    return f"## {name}\n\n{when}\n\n{''.join(notes)}{report(figures, TARGETS.get(name, []))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--only", help="rows whose label matches this pattern")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, printed only")
    options = parser.parse_args()
    if not shutil.which("wrk") or not shutil.which("taskset"):
        raise SystemExit("needs wrk and taskset (Debian: wrk, util-linux)")
    if options.quick:
        options.rounds, options.seconds = 2, 1.0
    partial = options.quick or options.only
    for name in options.tables or TABLES:
        rows = [row for row in TABLES[name] if re.search(options.only or "", row.label)]
        text = run(name, rows, options.rounds, options.seconds)
        print(text)
        if not partial:
            write("machine", f"{machine()}\n")
            write(name, text)


if __name__ == "__main__":
    main()
