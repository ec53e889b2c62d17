"""What each running replica has loaded, read from its public endpoints. Nothing that it sends can raise or hang."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from verifier.conformance.client import NoResponseError, get, get_json
from verifier.core.encoding import is_utf8_encodable
from verifier.core.times import MAX_TIME
from verifier.errors import ConfigError

_PATHS = ("/profile", "/healthz", "/readyz", "/openapi.json", "/.well-known/jwks.json")
TIMEOUT_S = 5.0  # of each request, from the name lookup to the last byte
LAST_USE = "verifier_secret_last_used_timestamp_seconds"
LAST_KEY_USE = "verifier_key_last_used_timestamp_seconds"
STARTED_AT = "process_start_time_seconds"
MAX_KEYS = 10_000
_MAX_METRICS_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica's response."""

    url: str
    digest: str = ""  # of its key set
    kids: tuple[str, ...] = ()  # of the keys that it trusts now or will
    ready: bool = False
    problem: str = ""  # why there is no usable response, or ""
    clock_offset_s: int | None = None  # of its clock (`Date`) from the one here
    max_lifetime_s: int | None = None
    leeway_s: int | None = None
    version: str = ""


def query(url: str) -> Replica:
    """Read the readiness, the settings and the JWKS of the replica at a base URL; nothing is raised."""
    found = _query(url, base := url.rstrip("/"))
    path = next((path for path in _PATHS if base.endswith(path)), "")
    return replace(found, problem=f"{found.problem}; give the URL without {path}") if found.problem and path else found


def _query(url: str, base: str) -> Replica:
    try:
        response, members = get_json(f"{base}/readyz", timeout_s=TIMEOUT_S)
        ready = response.status == 200 and members.get("status") == "ready"
        offset = round(response.clock_offset_s) if "date" in response.headers else None
        found = Replica(url, ready=ready, clock_offset_s=offset, **_settings(members))
        response, jwks = get_json(f"{base}/.well-known/jwks.json", timeout_s=TIMEOUT_S)
        if response.status != 200:
            return replace(found, problem=f"status {response.status} for the JWK Set (expected 200)")
        keys = jwks.get("keys")
        kids = [key.get("kid") if isinstance(key, dict) else None for key in keys] if isinstance(keys, list) else [None]
        digest = jwks.get("key_set_digest")
        if not all(_is_token(kid) for kid in kids) or len(kids) > MAX_KEYS or not _is_token(digest):
            return replace(found, problem="not a verifier: its JWK Set has no list of keys, or no key_set_digest")
        return replace(found, digest=str(digest), kids=tuple(map(str, kids)))
    except NoResponseError as exc:
        return Replica(url, problem=str(exc))
    except ValueError:
        return Replica(url, problem="not an http or https URL (expected http://host:port)")


def _is_token(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,200}", value) is not None


def _settings(members: Mapping[str, Any]) -> dict[str, Any]:
    settings, version = members.get("settings"), members.get("version")
    values = settings if isinstance(settings, dict) else {}
    return {name: _seconds(values.get(name)) for name in ("max_lifetime_s", "leeway_s")} | {
        "version": version if _is_token(version) else ""
    }


def _seconds(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10**6:
        return None
    return int(value)


@dataclass(frozen=True, slots=True)
class Uses:
    """When each key and each secret was last used, in seconds since 1970; 0: never since `started_at`."""

    last: Mapping[tuple[str, str], float]  # by kind and name: ("key", KID), ("secret", "APPLICATION SLOT")
    started_at: float | None = None  # of the replica; None: its system does not report it


def read_uses(url: str) -> Uses:
    """Return the last uses from a metrics page; values that are no time are left out.

    Raises:
        ConfigError: there is no usable metrics page.
    """
    found: dict[tuple[str, str], float] = {}
    started_at = None
    for name, labels, value in _samples(url):
        if not 0 <= value <= MAX_TIME or not all(map(is_utf8_encodable, labels.values())):
            continue
        if name == LAST_KEY_USE:
            found["key", labels.get("kid", "")] = value
        elif name == LAST_USE:
            found["secret", f"{labels.get('application', '')} {labels.get('slot', '')}"] = value
        elif name == STARTED_AT:
            started_at = value or None
    return Uses(found, started_at)


def last_uses(urls: Iterable[str]) -> tuple[dict[tuple[str, str], float], tuple[str, ...]]:
    """Return when each key and each secret was last used, and why a metrics page could not be read.

    On any of these metrics pages, without those never used.
    """
    found: dict[tuple[str, str], float] = {}
    problems = []
    for url in urls:
        try:
            uses = read_uses(url)
        except ConfigError as exc:
            problems.append(str(exc))
            continue
        for name, value in uses.last.items():
            if value:
                found[name] = max(value, found.get(name, 0.0))
    return found, tuple(problems)


def _samples(url: str) -> list[tuple[str, Mapping[str, str], float]]:
    """Return name, labels and value of every sample of a metrics page."""
    # Here, because the plain installation audits and does not contain it.
    from prometheus_client.parser import text_string_to_metric_families

    try:
        response = get(url, timeout_s=TIMEOUT_S, max_bytes=_MAX_METRICS_BYTES)
    except NoResponseError as exc:
        raise ConfigError(f"{url}: no metrics ({exc})", hint=exc.cause.fix) from exc
    except ValueError as exc:
        raise ConfigError(f"{url}: not an http or https URL", hint="http://host:port/metrics") from exc
    if response.status != 200:
        raise ConfigError(
            f"{url}: no metrics (status {response.status}, expected 200)", hint="http://host:port/metrics"
        )
    try:
        families = list(text_string_to_metric_families(response.body.decode("utf-8", "replace")))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as exc:
        # The parser raises whatever its steps do.
        raise ConfigError(f"{url}: not metrics in the Prometheus text format") from exc
    samples: list[tuple[str, Mapping[str, str], float]] = [
        (sample.name, sample.labels, sample.value) for family in families for sample in family.samples
    ]
    if not any(name.startswith("verifier_") for name, *_ in samples):
        raise ConfigError(f"{url}: has no metrics of a verifier", hint="http://host:port/metrics")
    return samples
