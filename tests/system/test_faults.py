"""Ten faults, each staged against a real server: what the log and the metrics then say is enough to tell which."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import APPLICATION_ID, ISSUER, JSON, SECRET, Answer, Server, free_port, lines, start
from tests.server.test_metrics import scrape
from tests.support import forge
from tests.support.kubelet import KubeletVolume
from tests.support.sockets import post, until
from verifier import TokenIssuer
from verifier.cli.main import cli
from verifier.signing.current_key import CurrentKey
from verifier.signing.private_key import load_private_key

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
HOUR = 3600
OFF_S = 120
USED = f'verifier_secret_last_used_timestamp_seconds{{application="{APPLICATION_ID}",slot="1"}}'


def command(*words: object, at: float, stdin: str = "") -> None:
    """Run `verifier` by a clock that shows this instant."""
    with mock.patch("time.time", return_value=at):
        done = CliRunner().invoke(cli, [str(word) for word in words], input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def issue(issuer: TokenIssuer, off_s: int = 0) -> str:
    """A token of the real issuer, by a clock that is so far off."""
    with mock.patch("time.time", return_value=time.time() + off_s):
        return issuer.issue("42", email="ann@example.com", username="ann")


class Game:
    """A backend with its keys, and what the verifier is given of them. The first key has expired by now."""

    def __init__(self, folder: Path) -> None:
        now = time.time()
        self.folder, self.keys, self.deployed = folder, folder / "keys", folder / "deployed"
        command("keys", "generate", "--keys", self.keys, at=now - 2 * HOUR)
        command("keys", "rotate", "--keys", self.keys, at=now - 1.2 * HOUR)
        command("applications", "add", APPLICATION_ID, "--file", folder / "applications.json", at=now, stdin=SECRET)
        shutil.copytree(self.keys / "public", self.deployed / "public")
        current_key = CurrentKey(self.keys)
        self.current = current_key.signer(int(now))
        [old] = (key for key in current_key.public.keyring.keys.values() if key.kid != self.current.kid)
        self.old = load_private_key(current_key.private / f"{old.kid}.pem", old)

    def rotate(self) -> None:
        """At once, and without deploying the new key."""
        command("keys", "rotate", "--lead", "0s", "--force", "--keys", self.keys, at=time.time())

    def issuer(self, issuer: str = ISSUER, **more: Any) -> TokenIssuer:
        return TokenIssuer.from_directory(self.keys, issuer=issuer, application_id=APPLICATION_ID, **more)

    def serve(self, **options: Any) -> "Replica":
        port = free_port()
        environment = {
            "VERIFIER_ISSUER": ISSUER,
            "VERIFIER_KEYS": str(self.deployed),
            "VERIFIER_APPLICATIONS": str(self.folder / "applications.json"),
            "VERIFIER_BODY_TIMEOUT": "1",
            "VERIFIER_METRICS_PORT": str(port),
        }
        log = self.folder / f"{port}.log"
        return Replica(self, start(environment, log, **options), log, port)


@dataclass(frozen=True)
class Replica:
    """A running verifier. Its log and its metrics are all that a person on call has."""

    game: Game
    server: Server
    log: Path
    metrics_port: int

    def sign_in(self, token: str = "", secret: str = SECRET) -> Answer:
        """As escs asks."""
        code = token or issue(self.game.issuer())
        return self.server.ask({"code": code, "secretKey": secret, "applicationId": APPLICATION_ID})

    def told(self, event: str = "") -> list[dict[str, Any]]:
        return [line for line in lines(self.log.read_text()) if line["event"] == event or not event]

    def samples(self) -> dict[str, float]:
        return scrape(self.metrics_port)


# Another clock for one process, from the moment a file is there: what `date -s` does to a host.
LATE = f"""
import os, time
right, moved = time.time, {{!r}}
time.time = lambda: right() - {OFF_S} * os.path.exists(moved)
from verifier.cli import main
main.main()
"""
# A root whom permissions hold, as in a container without capabilities.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = 'for f in "$1"/*; do mount --bind "$f" "$2/${f##*/}" || exit; done; shift 2; exec "$@"'


def frozen(game: Game) -> Replica:
    """Its key files are mounts of their own, as by `subPath`, of a volume that the kubelet keeps."""
    volume, public = KubeletVolume(game.folder / "volume"), game.deployed / "public"
    volume.write({path.name: path.read_bytes() for path in public.iterdir()})
    return game.serve(
        under=(*UNSHARE, "sh", "-c", MOUNT, "sh", os.path.realpath(volume.folder / "..data"), str(public))
    )


KINDS: dict[str, Callable[[Game], Replica]] = {
    "right": lambda game: game.serve(),
    "late": lambda game: game.serve(program=("-c", LATE.format(str(game.folder / "moved")))),
    "bound": lambda game: game.serve(under=BOUND),
    "frozen": frozen,
}
NEEDS = {"bound": (*BOUND, "true"), "frozen": (*UNSHARE, "mount", "--bind", os.devnull, os.devnull)}


def can(*words: str) -> bool:
    """Whether this works here."""
    with suppress(OSError):
        return subprocess.run(words, capture_output=True).returncode == 0
    return False


@pytest.fixture(scope="module")
def replicas(tmp_path_factory) -> Iterator[dict[str, Replica]]:
    """A server for the faults of others, and one for each fault of its own; started side by side."""
    games = {kind: Game(tmp_path_factory.mktemp(kind)) for kind in KINDS if can(*NEEDS.get(kind, ("true",)))}
    with ThreadPoolExecutor() as pool:
        running = dict(zip(games, pool.map(lambda kind: KINDS[kind](games[kind]), games), strict=True))
    yield running
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(lambda replica: replica.server.stop(), running.values())) == {0}


def signs_elsewhere(replica: Replica, off_s: int = 0, **options: Any) -> None:
    replica.sign_in(issue(replica.game.issuer(**options), off_s))


def moves_its_clock(replica: Replica) -> None:
    (replica.game.folder / "moved").touch()
    replica.sign_in()


def undeployed(replica: Replica) -> None:
    game, keys = replica.game, replica.game.folder / "rotated"
    shutil.copytree(game.keys, keys)
    command("keys", "rotate", "--lead", "0s", "--force", "--keys", keys, at=time.time())
    replica.sign_in(issue(TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)))


def stayed(replica: Replica) -> None:
    # A signer that keeps its first key in memory and knows of no end.
    signer = replace(replica.game.old, exp=None)
    replica.sign_in(issue(TokenIssuer(signer, issuer=ISSUER, application_id=APPLICATION_ID)))


def signs_der(replica: Replica) -> None:
    head, signature = issue(replica.game.issuer()).rpartition(".")[0], b""
    while not 70 <= len(signature) <= 72:
        signature = replica.game.current.key.sign(head.encode(), ec.ECDSA(hashes.SHA256()))
    replica.sign_in(f"{head}.{forge.b64(signature)}")


def says_jwt(replica: Replica) -> None:
    pair, now = forge.Pair("ES256", replica.game.current.key), int(time.time())
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 300}
    replica.sign_in(forge.token(pair, {"alg": "ES256", "kid": pair.kid, "typ": "JWT"}, claims))


def body_kept_back(replica: Replica) -> None:
    with socket.create_connection(("127.0.0.1", replica.server.port), timeout=10) as sock:
        sock.sendall(post({}, length=500))
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")


def forbidden(replica: Replica) -> None:
    (replica.game.deployed / "public" / f"{replica.game.current.kid}.json").chmod(0)
    assert until(lambda: replica.told("config_problem"))
    replica.sign_in()


def rotated(replica: Replica) -> None:
    replica.game.rotate()
    volume = KubeletVolume.__new__(KubeletVolume)
    volume.folder = replica.game.folder / "volume"
    volume.write({path.name: path.read_bytes() for path in (replica.game.keys / "public").iterdir()})
    now = time.time()
    assert until(lambda: replica.samples()["verifier_config_last_reload_success_timestamp_seconds"] > now)
    replica.sign_in()


@dataclass(frozen=True)
class Fault:
    """What is changed, and how it looks from then on."""

    state: Callable[[Replica], object]  # makes the one change, and lets a player sign in
    row: str  # of the table in docs/troubleshooting.md
    reason: str
    outcome: str = "invalid_token"
    status: int = 401
    kid: str = ""  # current or old: the key that the log names
    age_s: int | None = None
    replica: str = "right"
    events: list[tuple[str, str]] = field(default_factory=list)  # the other lines, with their level
    problems: int = 0
    alone: int = 0  # files that are mounted by themselves
    clock_s: int = 0  # how far the host's clock is off
    usable: int = 1


FAULTS = {
    "wrong-secret": Fault(
        lambda r: r.sign_in(secret=f"{SECRET}, changed on the dashboard"),
        "the secret was changed on the dashboard",
        "client_rejected",
        "invalid_client",
    ),
    "signer-2-minutes-ahead": Fault(
        lambda r: signs_elsewhere(r, OFF_S),
        "the signer's clock is 2 minutes off",
        "iat_in_future",
        kid="current",
        age_s=-OFF_S,
    ),
    "signer-2-minutes-behind": Fault(
        lambda r: signs_elsewhere(r, -OFF_S, lifetime_s=60),
        "the signer's clock is 2 minutes off",
        "token_expired",
        kid="current",
        age_s=OFF_S,
    ),
    "host-2-minutes-behind": Fault(
        moves_its_clock,
        "this host's clock is 2 minutes off",
        "iat_in_future",
        kid="current",
        age_s=-OFF_S,
        replica="late",
        clock_s=-OFF_S,
    ),
    "key-not-deployed": Fault(undeployed, "a key is not deployed", "unknown_key"),
    "key-expired": Fault(stayed, "a key has expired", "key_expired", kid="old"),
    "wrong-issuer": Fault(
        lambda r: signs_elsewhere(r, issuer=f"{ISSUER}/"),
        "another issuer",
        "iss_unexpected",
        kid="current",
    ),
    "der": Fault(
        signs_der,
        "DER signatures",
        "signature_is_der",
        kid="current",
    ),
    "typ-jwt": Fault(
        says_jwt,
        "`typ: JWT`",
        "typ_is_jwt",
        kid="current",
    ),
    "file-permission": Fault(
        forbidden,
        "a file cannot be read",
        "unknown_key",
        replica="bound",
        events=[("reload", "info"), ("config_problem", "error")],
        problems=1,
        usable=0,
    ),
    "subpath": Fault(
        rotated,
        "keys are mounted with `subPath`",
        "unknown_key",
        replica="frozen",
        alone=2,
    ),
    "body-taken": Fault(
        lambda r: r.server.ask(b"", headers=JSON),
        "a proxy drops the body",
        "body_empty",
        "invalid_request",
        400,
    ),
    "body-kept-back": Fault(
        body_kept_back,
        "a proxy drops the body",
        "body_timeout",
        "invalid_request",
        408,
    ),
    "redirected": Fault(
        lambda r: r.server.ask(method="GET", headers={}),
        "a proxy drops the body",
        "method_not_allowed",
        "invalid_request",
        405,
    ),
    "header-taken": Fault(
        lambda r: r.server.ask({}, headers={}),
        "a proxy drops a header",
        "media_type_unsupported",
        "invalid_request",
        415,
    ),
}


def marks(fault: Fault) -> set[str]:
    """What the page must name next to the reason."""
    marks = {"token_age_s"} if fault.age_s else set()
    marks |= {"verifier_invalid_files"} if fault.problems else set()
    marks |= {"verifier_unwatchable_files"} if fault.alone else set()
    return marks | ({"verifier_clock_timestamp_seconds"} if fault.clock_s else set())


def line_of(fault: Fault, game: Game) -> dict[str, Any]:
    """The line of the refused request, without what was measured."""
    line: dict[str, Any] = {"event": "request", "level": "info", "path": "/profile"}
    line |= {"outcome": fault.outcome, "status": fault.status, "reason": fault.reason}
    line |= {"application": APPLICATION_ID} if fault.outcome != "invalid_request" else {}
    line |= {"slot": 1} if fault.outcome == "invalid_token" else {}
    line |= {"kid": (game.old if fault.kid == "old" else game.current).kid} if fault.kid else {}
    return line | ({"token_age_s": pytest.approx(fault.age_s, abs=2)} if fault.age_s else {})


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_identified_by_log_and_metrics_alone(name, replicas):
    fault = FAULTS[name]
    if fault.replica not in replicas:
        pytest.skip(f"does not work here: {' '.join(NEEDS[fault.replica])}")
    replica = replicas[fault.replica]
    requests = len(replica.told("request"))
    assert replica.sign_in().status == 200
    assert until(lambda: len(replica.told("request")) > requests)  # it is written after the answer
    earlier, before = len(replica.told()), replica.samples()

    fault.state(replica)

    assert until(lambda: len(replica.told("request")) > requests + 1)
    *events, line = replica.told()[earlier:]
    after = replica.samples()
    public = replica.game.deployed / "public"
    assert all(line.pop(measured) for measured in ("duration_ms", "time"))
    assert line == line_of(fault, replica.game)
    assert [(told["event"], told["level"]) for told in events] == fault.events
    for told in events:
        denied = f"{public}/{replica.game.current.kid}.json: cannot be read (Permission denied)"
        assert told.get("problem", denied) == denied
    warnings = {told["problem"] for told in replica.told("config_problem") if told["level"] == "warning"}
    says = "is bind-mounted as a single file (subPath); changes to it never arrive"
    alone = (replica.game.current.kid, replica.game.old.kid) if fault.alone else ()
    assert warnings == {f"{public}/{kid}.json: {says}" for kid in alone}

    counted = {n: v - before.get(n, 0) for n, v in after.items() if n.startswith("verifier_requests_total")}
    sample = f'verifier_requests_total{{outcome="{fault.outcome}",reason="{fault.reason}"}}'
    assert {n: v for n, v in counted.items() if v} == {sample: 1}
    assert (after[USED] != before[USED]) == (fault.outcome == "invalid_token")
    assert after['verifier_invalid_files{kind="keys"}'] == fault.problems
    assert after["verifier_unwatchable_files"] == fault.alone
    assert after["verifier_keys_usable"] == fault.usable
    assert after["verifier_clock_timestamp_seconds"] - time.time() == pytest.approx(fault.clock_s, abs=2)

    [meaning] = re.findall(rf"(?m)^\| {re.escape(fault.row)} \| (.*) \|$", PAGE)
    for words in (fault.reason, *marks(fault)):
        assert f"`{words}`" in meaning
