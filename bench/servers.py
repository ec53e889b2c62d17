"""The servers that are measured: how each is built and started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS, BUILD = HERE / "peers", HERE / ".build"
BUN = PEERS / "node_modules" / "@oven" / "bun-linux-x64" / "bin" / "bun"

OURS, UNBATCHED = "verifier", "verifier, each response on its own"
FASTAPI, STARLETTE = "FastAPI + PyJWT", "Starlette + PyJWT decode"
FASTIFY, GO, RUST, BUN_JOSE = "Fastify + fast-jwt", "Go net/http + golang-jwt", "Rust axum + jsonwebtoken", "Bun + jose"
BARE, RAW = "floor: bare ASGI", "floor: signature check"
UVICORN, GRANIAN, HYPERCORN = "our app on uvicorn", "our app on granian", "our app on hypercorn"
_SCRIPTS = {
    FASTAPI: "fastapi_pyjwt.py",
    STARLETTE: "starlette_pyjwt.py",
    BARE: "bare.py",
    RAW: "raw.py",
    UNBATCHED: "unbatched.py",
}


def command(server: str, port: int, python: str = sys.executable) -> list[str] | str:
    """Build a server where it must be built, and return the line that starts it, or why it cannot be started."""
    if server == OURS:
        return [python, "-m", "verifier", "serve"]
    if server in _SCRIPTS:
        if server == FASTAPI and not _has(python, "fastapi"):
            return "needs bench/requirements.lock"
        return [python, str(PEERS / _SCRIPTS[server])]
    if server in (UVICORN, GRANIAN, HYPERCORN):
        return _asgi(server, port, python)
    return {GO: _go, RUST: _rust, FASTIFY: _node, BUN_JOSE: _bun}[server]()


def _has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def _asgi(server: str, port: int, python: str) -> list[str] | str:
    """Any ASGI server, for our application."""
    options = {
        UVICORN: ["--port", str(port), "--no-access-log", "--log-level", "warning"],
        GRANIAN: ["--port", str(port), "--interface", "asgi", "--loop", "uvloop", "--log-level", "warning"],
        HYPERCORN: ["--bind", f"127.0.0.1:{port}", "--worker-class", "uvloop"],
    }[server]
    name = {UVICORN: "uvicorn", GRANIAN: "granian", HYPERCORN: "hypercorn"}[server]
    if not _has(python, name):
        return "needs bench/requirements.lock"
    return [python, "-m", name, "verifier.asgi:app", *options]


def _go() -> list[str] | str:
    if not shutil.which("go"):
        return "needs Go"
    binary = BUILD / "go-peer"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=PEERS / "go", check=True)
    return [str(binary)]


def _rust() -> list[str] | str:
    if not shutil.which("cargo"):
        return "needs Rust's cargo"
    from tests.languages.build import CRATES

    lock = (PEERS / "rust" / "crates.lock").read_text()
    (PEERS / "rust" / "Cargo.lock").write_text(lock.replace('source = "crates.io"', CRATES))
    environment = os.environ | {"CARGO_TARGET_DIR": str(BUILD / "rust")}
    line = ["cargo", "build", "--quiet", "--release", "--locked"]
    subprocess.run(line, cwd=PEERS / "rust", env=environment, check=True)
    return [str(BUILD / "rust" / "release" / "peer")]


def _node() -> list[str] | str:
    if not shutil.which("node") or not (PEERS / "node_modules").is_dir():
        return "needs Node.js, and npm ci in bench/peers"
    return ["node", str(PEERS / "fastify.mjs")]


def _bun() -> list[str] | str:
    return [str(BUN), str(PEERS / "bun.mjs")] if BUN.exists() else "needs npm ci in bench/peers, on Linux on x86-64"
