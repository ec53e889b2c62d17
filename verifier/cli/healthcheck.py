"""`verifier healthcheck`: whether the server that was started here is ready."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import Number, option, setting_option
from verifier.conformance import get_json
from verifier.errors import UnsafeOperationError

_TIMEOUT_S = 3
_MAX_READ_AGE_S = 10


@click.command()
@setting_option("host", help="Address the server listens on.")
@setting_option("port", type=Number(1, 65535), envvar=["VERIFIER_PORT", "PORT"], help="Port the server listens on.")
@option("--prefix", help="Path under which your application mounts the endpoint, such as /escs.")
@setting_option(
    "keys",
    help="Folder of the server: one that trusts none of these keys is another server. Not compared if there is none.",
)
def healthcheck(host: str, port: int, prefix: str | None, keys: Path) -> None:
    """Query whether the server on this machine is ready; for containers.

    Exit 1 if it is not, or if another server or program responds on the port.
    """
    # A server that listens on every address is queried on the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    path = f"/{prefix.strip('/')}" if prefix else ""
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        response, members = get_json(f"{base}/readyz", timeout_s=_TIMEOUT_S)
    except ValueError as exc:
        raise click.UsageError(f"--host, --port or --prefix: {exc}") from exc
    status = members.get("status")
    if status not in ("ready", "not ready"):
        found = f"status {status}" if isinstance(status, str) else "no status"
        raise UnsafeOperationError(
            f"{host} port {port} is not a verifier (found {found} at {path}/readyz, expected ready or not ready)",
            hint="another program listens there: stop it, or correct the port; if it is your application, which mounts "
            "the endpoint, name the path: --prefix /escs",
        )
    if status == "ready" and _has_just_read(members):
        _compare_keys(base, keys)
    click.echo(status)
    if response.status != 200:
        sys.exit(EXIT_REFUSED)


def _has_just_read(members: dict[str, Any]) -> bool:
    """Return whether the server can read its files: if a disk hangs, listing the folder here would hang, too."""
    age = members.get("last_read_age_s")
    return isinstance(age, int | float) and age <= _MAX_READ_AGE_S and not members.get("hung_reads")


def _compare_keys(base: str, keys: Path) -> None:
    """Compare the key ids that the server publishes with the names of the files; neither needs a cryptography library.

    Raises:
        UnsafeOperationError: none is the same, so that it is another server.
    """
    try:
        here = {name.removesuffix(".json") for name in os.listdir(keys / "public") if name.endswith(".json")}
    except OSError:
        return
    published = get_json(f"{base}/.well-known/jwks.json", timeout_s=_TIMEOUT_S)[1].get("keys")
    rows = published if isinstance(published, list) else []
    there = {str(row.get("kid")) for row in rows if isinstance(row, dict)}
    if here and there and not here & there:
        raise UnsafeOperationError(
            f"{base} is another server: it trusts none of the keys in {keys / 'public'} "
            f"(found {min(there)}, expected {min(here)})",
            hint="stop it, or choose another port for yours with VERIFIER_PORT, for serve and for this command",
        )
