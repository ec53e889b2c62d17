"""Rotates keys under load: three replicas, continuous sign-ins; are exactly the right tokens rejected?

    python -m bench.rotation

Every replica is a real `verifier serve`. It reads the key directory itself (`shared`), or a copy of its own that
arrives late and is swapped in through `..data` as kubelet does it (`kubelet`). Signers switch by the clock.
"""

import argparse
import http.client
import json
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from verifier.cli.main import cli
from verifier.core.encoding import b64url_decode
from verifier.core.keyring import Keyring
from verifier.core.rules import Policy
from verifier.core.tokens import Player
from verifier.errors import Reason
from verifier.signing.issuer import TokenIssuer, issue
from verifier.signing.keystore import Keystore
from verifier.signing.private_key import PrivateKey, load_private_key
from verifier.storage.key_directory import KeyDirectory

ISSUER, APPLICATION_ID, SECRET = "https://game.example", "bench", secrets.token_urlsafe(24)
LEEWAY_S = 1
DELAYS_S = (0.0, 0.25, 0.6)  # until a replica's copy of a change arrives
JSON = {"Content-Type": "application/json"}
LOST = (ConnectionError, http.client.HTTPException, TimeoutError)


class Volume:
    """A replica's copy of a folder, changed as kubelet changes a ConfigMap: whole, by renaming the link `..data`."""

    def __init__(self, folder: Path, delay_s: float) -> None:
        self.folder, self.delay_s, self.versions = folder, delay_s, 0
        folder.mkdir(parents=True)

    def deliver(self, source: Path) -> float:
        """Swap in the content of the source after the delay, and return the moment of the swap."""
        files = {path.name: path.read_bytes() for path in source.glob("*.json")}
        time.sleep(self.delay_s)
        data, self.versions = self.folder / "..data", self.versions + 1
        old = data.resolve()
        version = self.folder / f"..{self.versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
        temporary = self.folder / "..data_tmp"
        temporary.symlink_to(version.name)
        temporary.rename(data)
        swapped = time.monotonic()
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(Path("..data") / name)
        for link in self.folder.glob("*.json"):
            if link.name not in files:
                link.unlink()
        if old != data:
            shutil.rmtree(old, ignore_errors=True)
        return swapped


def environment(keys: Path) -> dict[str, str]:
    """Return the minimal settings of `verifier serve`."""
    return os.environ | {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(keys),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }


class Replica:
    """`verifier serve` in a process of its own, which can be killed."""

    def __init__(self, keys: Path, log: Path, lifetime_s: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = log
        self.environment = environment(keys) | {
            "VERIFIER_MAX_LIFETIME": str(lifetime_s),
            "VERIFIER_LEEWAY": str(LEEWAY_S),
            "VERIFIER_PORT": str(self.port),
        }
        self.down = True
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "verifier", "serve"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    self.down = False
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def kill_and_restart(self, pause_s: float) -> None:
        self.down = True
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        time.sleep(pause_s)
        self.start()
        self.wait_until_ready()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=20)


class Client:
    """A client like escs: one keep-alive connection to each replica."""

    def __init__(self) -> None:
        self.open: dict[int, http.client.HTTPConnection] = {}
        self.opened_at: dict[int, int] = {}  # which of the replica's starts a connection is to

    def is_stale(self, replica: Replica) -> bool:
        """Whether the connection is to a process that was killed, which shows at its next use."""
        return self.opened_at.get(replica.port, replica.starts) != replica.starts

    def sign_in(self, replica: Replica, token: str) -> tuple[int, str]:
        """Return the status and the error_description of the response.

        Raises:
            LOST: the connection ended without a response.
        """
        connection = self.open.get(replica.port)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
            self.open[replica.port], self.opened_at[replica.port] = connection, replica.starts
        body = json.dumps({"code": token, "secretKey": SECRET, "applicationId": APPLICATION_ID})
        try:
            connection.request("POST", "/profile", body, JSON)
            response = connection.getresponse()
            members = json.loads(response.read())
        except LOST:
            connection.close()
            del self.open[replica.port]
            raise
        return response.status, members.get("error_description", "")

    def close(self) -> None:
        for connection in self.open.values():
            connection.close()


@dataclass
class Result:
    """The counts of one run."""

    mode: str
    rotations: int = 0
    seconds: float = 0.0
    good: Counter[str] = field(default_factory=Counter)  # valid tokens: accepted, rejected, sent again
    ended: Counter[str] = field(default_factory=Counter)  # tokens of expired keys: accepted, rejected
    revoked: Counter[str] = field(default_factory=Counter)  # tokens of revoked keys, after a replica has rejected one
    keys: Counter[str] = field(default_factory=Counter)  # accepted tokens by kid
    rejections: list[str] = field(default_factory=list)  # of valid tokens: error_description
    failures: list[str] = field(default_factory=list)  # connections lost to a replica that was not killed
    revocation_s: dict[str, list[float]] = field(
        default_factory=dict
    )  # from a replica's delivery to its first rejection


class Game:
    """The key directory, its replicas and the load on them."""

    def __init__(self, folder: Path, mode: str, lifetime_s: int, lead_s: int) -> None:
        self.source, self.lifetime_s, self.lead_s = folder / "keys", lifetime_s, lead_s
        self.result = Result(mode)
        self.keys("generate")
        self.volumes: list[Volume] = []
        if mode == "kubelet":
            self.volumes = [Volume(folder / f"replica-{n}" / "public", delay) for n, delay in enumerate(DELAYS_S)]
            self.deliver()
        folders = [volume.folder.parent for volume in self.volumes] or [self.source] * len(DELAYS_S)
        self.replicas = [Replica(keys, folder / f"{n}.log", lifetime_s) for n, keys in enumerate(folders)]
        self.privates: dict[str, PrivateKey] = {}
        self.ends: dict[str, int] = {}
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def keys(self, *command: str) -> None:
        """`verifier keys ...` on the source."""
        window = ["--max-lifetime", str(self.lifetime_s), "--leeway", str(LEEWAY_S)]
        options = [] if command[0] == "generate" else window
        with redirect_stdout(StringIO()):
            arguments = ["keys", *command, *options, "--keys", str(self.source)]
            cli.main(arguments, prog_name="verifier", standalone_mode=False)

    def deliver(self) -> list[float]:
        """Deliver the source to every replica, and return the moment of each delivery."""
        if not self.volumes:
            return [time.monotonic()] * len(DELAYS_S)
        return in_threads([lambda volume=volume: volume.deliver(self.source / "public") for volume in self.volumes])

    def remember(self) -> None:
        """Keep a copy of every private key, as an attacker could, and the end of each key."""
        store = Keystore(self.source)
        store.public.refresh()
        for kid, key in store.public.keyring.keys.items():
            if kid not in self.privates and (store.private / f"{kid}.pem").exists():
                self.privates[kid] = load_private_key(store.private / f"{kid}.pem", key)
            if key.exp is not None and key.revoked_at is None:
                self.ends[kid] = key.exp

    def sign_in(self, pause_s: float) -> None:
        """Run one client: issue tokens all the time, and send each at once or when it is older."""
        issuer = TokenIssuer.from_directory(
            self.source, issuer=ISSUER, application_id=APPLICATION_ID, lifetime_s=self.lifetime_s
        )
        client, waiting = Client(), []
        turn = random.randrange(len(self.replicas))  # noqa: S311
        while not self.stopping.wait(pause_s):
            held_s = random.choice((0, 0, random.uniform(0, self.lifetime_s - 1)))  # noqa: S311
            waiting.append((time.monotonic() + held_s, issuer.issue("player")))
            due = [token for at, token in waiting if at <= time.monotonic()]
            waiting = [entry for entry in waiting if entry[1] not in due]
            for token in due:
                turn += 1
                self.present(client, token, turn)
        client.close()

    def present(self, client: Client, token: str, turn: int) -> None:
        header, claims = map(json.loads, map(b64url_decode, token.split(".")[:2]))
        for attempt in range(len(self.replicas)):
            replica = self.replicas[(turn + attempt) % len(self.replicas)]
            excused = replica.down or client.is_stale(replica)
            try:
                status, text = client.sign_in(replica, token)
            except LOST as exc:
                with self.lock:
                    self.result.good["sent again"] += 1
                    if not (excused or replica.down or client.is_stale(replica)):
                        self.result.failures.append(f"{type(exc).__name__} from replica {replica.port}")
                continue
            with self.lock:
                if status == 200:
                    self.result.good["accepted"] += 1
                    self.result.keys[header["kid"]] += 1
                elif time.time() < claims["exp"]:
                    self.result.good["rejected"] += 1
                    self.result.rejections.append(text)
                else:
                    self.result.good["too late"] += 1
            return
        with self.lock:
            self.result.failures.append("no replica responds")

    def attack(self) -> None:
        """Send tokens of expired keys, otherwise valid, to every replica all the time."""
        client = Client()
        while not self.stopping.is_set():
            for kid, exp in list(self.ends.items()):
                if time.time() >= exp:
                    for replica in self.replicas:
                        self.forge(client, replica, kid, self.result.ended)
            time.sleep(0.02)
        client.close()

    def forge(self, client: Client, replica: Replica, kid: str, count: Counter[str]) -> str:
        key = self.privates[kid]
        token = issue(
            Player("attacker"),
            PrivateKey(key.kid, key.alg, key.key),
            Policy(ISSUER, APPLICATION_ID, Keyring(), int(time.time())),
            self.lifetime_s,
        )
        try:
            status, text = client.sign_in(replica, token)
        except LOST:
            return "lost"
        count["accepted" if status == 200 else "rejected"] += 1
        return "" if status == 200 else text

    def rotate(self, kill: bool) -> None:
        """Rotate, and wait until the old key has expired; a replica may be killed on the way."""
        self.keys("rotate", "--force", "--lead", f"{self.lead_s}s")
        self.remember()
        self.deliver()
        _, new = sorted(KeyDirectory(self.source / "public").load().keys.values(), key=lambda key: key.nbf)[-2:]
        if kill:
            time.sleep(max(0.0, new.nbf - time.time() - 0.4))
            self.replicas[1].kill_and_restart(0.3)  # down at the switch, up again in the overlap
        end = new.nbf + self.lifetime_s + 2 * LEEWAY_S
        time.sleep(max(0.0, end + 0.7 - time.time()))
        self.result.rotations += 1

    def revoke(self, name: str) -> None:
        """Revoke the current key, and measure for how long each replica accepts its tokens after the change."""
        keyring = KeyDirectory(self.source / "public")
        keyring.refresh()
        kid = keyring.keyring.current(int(time.time())).kid
        self.ends.pop(kid, None)

        def watch(replica: Replica) -> float:
            client, ignored = Client(), Counter()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if self.forge(client, replica, kid, ignored) == Reason.KEY_REVOKED.text:
                    rejected = time.monotonic()
                    for _ in range(20):
                        self.forge(client, replica, kid, self.result.revoked)
                    client.close()
                    return rejected
                time.sleep(0.005)
            raise AssertionError("the revoked key is not rejected")

        watches = [lambda replica=replica: watch(replica) for replica in self.replicas]

        def change() -> list[float]:
            time.sleep(0.2)
            self.keys("revoke", "--kid", kid, "--reason", "bench", "--replace")
            return self.deliver()

        delivered, *rejected = in_threads([change, *watches])
        self.remember()
        self.result.revocation_s[name] = [end - begin for begin, end in zip(delivered, rejected, strict=True)]


def in_threads(functions: list[Callable[[], object]]) -> list:
    """Run all functions at once and return their results; raises what one of them raises."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def run(
    folder: Path,
    *,
    mode: str,
    rotations: int,
    clients: int = 4,
    lifetime_s: int = 3,
    lead_s: int = 4,
    pause_s: float = 0,
) -> Result:
    """Rotate under load, then revoke twice: alone, and while another file is broken."""
    game = Game(folder, mode, lifetime_s, lead_s)
    try:
        for replica in game.replicas:
            replica.start()
        for replica in game.replicas:
            replica.wait_until_ready()
        game.remember()
        began = time.monotonic()
        threads = [threading.Thread(target=game.sign_in, args=(pause_s,)) for _ in range(clients)]
        threads.append(threading.Thread(target=game.attack))
        for thread in threads:
            thread.start()
        try:
            for number in range(rotations):
                game.rotate(kill=number == rotations // 2)
        finally:
            game.stopping.set()
            for thread in threads:
                thread.join()
        game.result.seconds = time.monotonic() - began
        game.revoke("alone")
        (game.source / "public" / "broken.json").write_text('{"kty":')
        game.revoke("beside a broken file")
    finally:
        for replica in game.replicas:
            replica.stop()
    return game.result


def table(results: list[Result]) -> str:
    """Format the results in Markdown."""
    rows: list[tuple[str, Callable[[Result], object]]] = [
        ("rotations", lambda r: r.rotations),
        ("seconds of load", lambda r: f"{r.seconds:.0f}"),
        ("valid tokens accepted", lambda r: f"{r.good['accepted']:,}"),
        ("**valid tokens rejected**", lambda r: f"**{r.good['refused']:,}**"),
        ("keys they were signed with", lambda r: len(r.keys)),
        ("sent again: the connection to the killed replica broke", lambda r: r.good["sent again"]),
        ("connections lost to another replica", lambda r: len(r.failures)),
        ("valid tokens sent too late by the client", lambda r: r.good["too late"]),
        ("tokens of expired keys rejected", lambda r: f"{r.ended['refused']:,}"),
        ("**tokens of expired keys accepted**", lambda r: f"**{r.ended['accepted']:,}**"),
        ("tokens of revoked keys accepted, of", lambda r: f"{r.revoked['accepted']} of {r.revoked.total()}"),
    ]
    for name in results[0].revocation_s:
        text = f"revocation {name}: delivery to first rejection on the slowest replica"
        rows.append((text, lambda r, name=name: f"{max(r.revocation_s[name]):.2f} s"))
    head = ["| |" + "".join(f" {r.mode} |" for r in results), "| --- |" + " --- |" * len(results)]
    return "\n".join([*head, *(f"| {text} |" + "".join(f" {show(r)} |" for r in results) for text, show in rows)])


def main() -> None:
    """Run with large numbers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rotations", type=int, default=5)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--mode", choices=("kubelet", "shared"), action="append")
    arguments = parser.parse_args()
    results = []
    for mode in arguments.mode or ("kubelet", "shared"):
        with tempfile.TemporaryDirectory() as folder:
            results.append(run(Path(folder), mode=mode, rotations=arguments.rotations, clients=arguments.clients))
    print(f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print(table(results))
    bad = [r for r in results if r.good["rejected"] or r.ended["accepted"] or r.revoked["accepted"] or r.failures]
    for result in bad:
        print(Counter(result.rejections), result.failures, file=sys.stderr)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
