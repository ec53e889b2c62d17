"""Run the complete sign-in on this machine: the verifier, a stand-in for escs, and the game backend.

Keys, applications and logs are in a folder that git ignores. Nothing in it is meant for real players.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ISSUER = "https://game.example"
APPLICATION_ID = "orbit-run"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".verifier-example")
    parser.add_argument("--port", type=int, default=8010, help="first of three ports; ports in use are skipped")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        serve(options.folder.resolve(), *free_ports(options.port, 3))
    except KeyboardInterrupt:
        print()


def serve(folder: Path, verifier_port: int, game_port: int, escs_port: int) -> NoReturn:
    """Run the three servers until one of them ends."""
    secret = prepare(folder)
    game = f"http://127.0.0.1:{game_port}"
    escs = f"http://localhost:{escs_port}"  # another host name, because cookies do not distinguish ports
    game_api_url = f"http://127.0.0.1:{verifier_port}/profile"
    # Each process gets what it needs: only the game signs; only escs holds the secret, the verifier has its digest.
    verifier_environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(folder / "keys"),
        "VERIFIER_APPLICATIONS": str(folder / "applications.json"),
        "VERIFIER_PORT": str(verifier_port),
    }
    escs_environment = {
        "GAME_API_URL": game_api_url,
        "GAME_ORIGIN": game,
        "ESCS_SECRET_KEY": secret,
        "ESCS_APPLICATION_ID": APPLICATION_ID,
    }
    game_environment = {
        "GAME_ORIGIN": game,
        "GAME_ISSUER": ISSUER,
        "GAME_KEYS": str(folder / "keys"),
        "ESCS_ORIGIN": escs,
        "ESCS_APPLICATION_ID": APPLICATION_ID,
    }
    with ExitStack() as stack:
        processes = [
            stack.enter_context(run(folder / "verifier.log", verifier_port, verifier_environment, "serve")),
            stack.enter_context(run(folder / "escs.log", escs_port, escs_environment, "escs/escs.py")),
            stack.enter_context(run(folder / "game.log", game_port, game_environment, "game/backend.py")),
        ]
        print(f"Game          {game}")
        print(f"Game API URL  {game_api_url}")
        print(f"Keys and logs {folder}")
        print("Open the game in a browser. Ctrl-C stops everything.", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
    sys.exit(f"error: a server ended; its log is in {folder}")


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def prepare(folder: Path) -> str:
    """Create keys and an application on the first run, with the commands that a game would use; return the secret."""
    if not folder.exists():
        # Renamed when it is complete, so that an interrupted first run leaves nothing that the next one would use.
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
            new, secret = Path(temporary, "new"), secrets.token_urlsafe(24)
            new.mkdir(mode=0o700)
            verifier("keys", "generate", "--keys", str(new / "keys"))
            verifier("applications", "add", APPLICATION_ID, "--file", str(new / "applications.json"), stdin=secret)
            (new / "secret").write_text(secret)
            new.rename(folder)
    return (folder / "secret").read_text()


def verifier(*arguments: str, stdin: str = "") -> None:
    command = [sys.executable, "-m", "verifier", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def free_ports(first: int, count: int) -> list[int]:
    """Return the first ports of 127.0.0.1 from `first` on that a server can listen on."""
    found: list[int] = []
    for port in range(first, 65536):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    sys.exit(f"error: no {count} free ports from {first} on")


@contextmanager
def run(log: Path, port: int, environment: Mapping[str, str], program: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `verifier serve`, or an application under uvicorn, from when it listens until the end of the context."""
    if program == "serve":
        command = ["verifier", "serve"]
    else:
        path = HERE / program
        command = ["uvicorn", f"{path.stem}:app", "--app-dir", str(path.parent), "--port", str(port)]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "3"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env={**inherited, **environment}, stdout=output, stderr=output
        )
    try:
        wait_until_listening(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"error: a server did not start:\n{log.read_text()}")


if __name__ == "__main__":
    main()
