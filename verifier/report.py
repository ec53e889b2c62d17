"""One page for the reviewer of the keys: what was trusted when, who changed what, and what is not covered."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from verifier import __version__, audit, history, tokens
from verifier.keyring import PublicKey, Stage
from verifier.replicas import Replica
from verifier.times import duration, utc

_TESTS = "tests/test_tokens.py::"
# The test that holds each rule of the verification policy.
POLICY_TESTS = {
    "typ": "test_a_bad_header_is_refused",
    "crit": "test_a_bad_header_is_refused",
    "kid": "test_a_key_verifies_within_its_dates_only",
    "alg": "test_a_bad_header_is_refused",
    "signature": "test_a_changed_payload_is_refused",
    "lifetime": "test_leeway_and_lifetime_are_the_policys",
}
NOT_COVERED = (
    "Who read a private key. A copy leaves no trace here; only use in an HSM or a cloud KMS would.",
    "Whether a removed private half is gone from disks and backups: removing unlinks a file.",
    "A change of history and files by someone who may write both: compare with version control.",
    "Replay: a token can be used again until it expires. There is no database to remember it.",
    "Revocation between the change of the file and the moment a replica has read it: "
    "one second, and the delay of the mount (kubelet: up to two minutes).",
    "Accounts: whether a player may sign in is decided when the token is minted.",
    "TLS, rate limits and the escs side.",
)


def summary(state: audit.State, replicas: Iterable[Replica] = ()) -> dict[str, Any]:
    """The report as data; the page shows the same."""
    found = audit.findings(state)
    policy = {
        "leeway_s": state.window.leeway_s,
        "max_lifetime_s": state.window.max_lifetime_s,
        "issuer": "the configured issuer",
        "application_id": "the applicationId of the request",
    }
    return {
        "made_at": state.now,
        "version": __version__,
        "key_set_digest": state.keyring.digest,
        "window": asdict(state.window) | {"overlap_s": state.window.overlap_s},
        "keys": [_key(state, key) for key in state.keyring.keys.values()],
        "findings": [asdict(finding) for finding in found],
        "rules": [
            {
                "name": rule.name,
                "severity": rule.severity,
                "demands": rule.demands,
                "source": rule.source,
                "violations": sum(finding.rule == rule.name for finding in found),
            }
            for rule in audit.RULES
        ],
        "history": [asdict(event) for event in state.events],
        "replicas": [
            asdict(replica) | {"same": replica.ready and replica.digest == state.keyring.digest} for replica in replicas
        ],
        "policy": [
            {
                "name": rule.name,
                "source": rule.source,
                "expects": rule.expects.format(**policy),
                "test": _TESTS + POLICY_TESTS.get(rule.name, "test_a_bad_claim_is_refused"),
            }
            for rule in tokens.RULES
        ],
        "not_covered": list(NOT_COVERED),
    }


def _key(state: audit.State, key: PublicKey) -> dict[str, Any]:
    """A key with the time in which it could sign and the time in which it is trusted."""
    # Signers take the newest key; a successor, the key's own end or its revocation ends its turn.
    successors = [
        other.nbf for other in state.keyring.keys.values() if other.nbf > key.nbf and other.revoked_at is None
    ]
    ends = [instant for instant in (key.exp, key.revoked_at) if instant is not None]
    return {
        "kid": key.kid,
        "alg": key.algorithm.name,
        "stage": state.keyring.stage(key, state.now),
        "made_at": key.iat,
        "signs_from": key.nbf,
        "signs_until": min([*ends, *successors], default=None),
        "verifies_from": key.nbf - state.window.leeway_s,
        "verifies_until": min(ends, default=None),
        "exp": key.exp,
        "revoked_at": key.revoked_at,
        "reason": key.reason,
    }


def page(document: dict[str, Any]) -> str:
    """One self-contained HTML page: no network, no scripts."""
    environment = Environment(
        loader=PackageLoader("verifier", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"utc": utc, "duration": duration}
    return environment.get_template("report.html").render(
        document, timeline=_timeline(document), stages=list(Stage), gone=history.GONE
    )


def _timeline(document: dict[str, Any]) -> dict[str, Any]:
    """Positions of the picture, in per cent of the time shown."""
    now, keys = document["made_at"], document["keys"]
    instants = [now, *(k[n] for k in keys for n in ("made_at", "verifies_from", "verifies_until") if k[n] is not None)]
    overlap_s = document["window"]["overlap_s"]
    first, last = min(instants) - overlap_s, max(instants) + overlap_s

    def at(instant: int | None) -> float:
        return 100.0 if instant is None else round(100 * (instant - first) / (last - first), 2)

    rows = []
    for key in keys:
        published, starts, stops, ends = (
            at(key[name]) for name in ("made_at", "signs_from", "signs_until", "verifies_until")
        )
        # A key that was revoked before it signed never signs.
        stops, ends = max(min(stops, ends), min(starts, ends)), max(ends, published)
        bars = (("pending", published, min(starts, ends)), ("current", starts, stops), ("retiring", stops, ends))
        rows.append(
            {
                "kid": key["kid"],
                "stage": key["stage"],
                "bars": [
                    {"stage": stage, "from": left, "width": round(right - left, 2)}
                    for stage, left, right in bars
                    if right > left
                ],
                "revoked": at(key["revoked_at"]) if key["revoked_at"] is not None else None,
                "open": key["verifies_until"] is None,
            }
        )
    return {"first": first, "last": last, "now": at(now), "rows": rows}
