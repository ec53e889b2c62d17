"""What each running replica has loaded, asked over HTTP."""

import json
import re
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from verifier.errors import ConfigError

TIMEOUT_S = 5
LAST_USE = "verifier_secret_last_used_timestamp_seconds"
_MAX_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica's answer."""

    url: str
    digest: str = ""  # of its key set
    kids: tuple[str, ...] = ()
    ready: bool = False
    problem: str = ""  # why there is no answer, or ""


def ask(url: str) -> Replica:
    """The readiness and the JWKS of the replica at a base URL; nothing is raised."""
    base = url.rstrip("/")
    if urlsplit(base).scheme not in ("http", "https"):
        return Replica(url, problem="not an http or https URL")
    try:
        ready, status = _get(f"{base}/readyz")
        jwks, _ = _get(f"{base}/.well-known/jwks.json")
        kids = tuple(str(key["kid"]) for key in jwks["keys"])
        return Replica(url, str(jwks["key_set_digest"]), kids, status == 200 and ready["status"] == "ready")
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as exc:
        return Replica(url, problem=f"no verifier answers ({type(exc).__name__})")


def _get(url: str) -> tuple[dict[str, Any], int]:
    try:
        answer = urllib.request.urlopen(url, timeout=TIMEOUT_S)  # noqa: S310 - the scheme was checked
    except HTTPError as exc:
        answer = exc  # an answer too: 503 while not ready
    with answer:
        return json.loads(answer.read(_MAX_ANSWER_BYTES)), answer.status


def last_use(url: str, application_id: str) -> dict[int, float]:
    """When each secret slot of an application was last used, by slot, from a metrics page; raises ConfigError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url}: not an http or https URL")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            text = answer.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException) as exc:
        raise ConfigError(f"{url}: no metrics answer ({type(exc).__name__})") from exc
    # In the text format a label escapes backslash, quote and newline.
    label = application_id.replace("\\", r"\\").replace('"', r"\"")
    sample = rf'(?m)^{LAST_USE}\{{application="{re.escape(label)}",slot="([12])"\}} ([0-9.e+]+)$'
    return {int(slot): float(instant) for slot, instant in re.findall(sample, text)}
