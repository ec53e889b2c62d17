"""One render_html for the reviewer of the keys: what was trusted when, who changed what, and what is not covered."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from verifier._version import __version__
from verifier.core import rules
from verifier.core.keyring import KeyState
from verifier.core.times import format_duration, utc
from verifier.rotation import audit, history, timeline
from verifier.rotation.replicas import Replica

_TESTS = "tests/core/test_tokens.py::"
_BAD_CLAIM = "test_a_bad_claim_is_refused"
# The test that holds each rule of the verification policy, where it is not the one about claims.
POLICY_TESTS = {
    "typ": "test_a_bad_header_is_refused",
    "crit": "test_a_bad_header_is_refused",
    "kid": "test_a_key_verifies_within_its_dates_only",
    "alg": "test_a_bad_header_is_refused",
    "signature": "test_a_changed_payload_is_refused",
    "lifetime": "test_leeway_and_lifetime_are_the_policys",
}
REVOCATION_TEST = _TESTS + "test_a_revoked_key_verifies_nothing"
NOT_COVERED = (
    "Who read a private key. A copy leaves no trace here; only use in an HSM or a cloud KMS would.",
    "Whether a removed private half is gone from disks and backups: removing unlinks a file.",
    "A change of history and files by someone who may write both: compare with version control.",
    "Replay: a token can be used again until it expires. There is no database to remember it.",
    "Revocation between the change of the file and the moment a replica has read it: "
    "one second, and the delay of the mount (kubelet: up to two minutes).",
    "The settings of each replica: token lifetime and leeway here are those this report was made with.",
    "Single sign-ins: neither the verifier nor this render_html keeps a list of accepted tokens.",
    "Accounts: whether a player may sign in is decided when the token is minted.",
    "TLS, rate limits and the escs side.",
)
_LABEL_GAP_PERCENT = 5  # per cent of the picture: switches nearer to each other share one label
_DAY_S = 86_400
_STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, *(n * _DAY_S for n in (1, 2, 7, 14, 28, 91, 182, 365)))


def build_report(inventory: audit.Inventory, replicas: Iterable[Replica] = ()) -> dict[str, Any]:
    """The report as data; the render_html shows the same."""
    found = audit.findings(inventory)
    policy = {
        "leeway_s": inventory.window.leeway_s,
        "max_lifetime_s": inventory.window.max_lifetime_s,
        "issuer": "the configured issuer",
        "application_id": "the applicationId of the request",
    }
    keys = timeline.keys(inventory.keyring, inventory.events, inventory.window, inventory.now)
    return {
        "made_at": inventory.now,
        "version": __version__,
        "key_set_digest": inventory.keyring.digest,
        "window": asdict(inventory.window) | {"overlap_s": inventory.window.overlap_s},
        "keys": keys,
        "switches": timeline.transitions(keys, inventory.window),
        "findings": [asdict(finding) for finding in found],
        "rules": [
            {
                "name": rule.name,
                "severity": rule.severity,
                "requirement": rule.requirement,
                "source": rule.source,
                "violations": sum(finding.rule == rule.name for finding in found),
            }
            for rule in audit.RULES
        ],
        "history": [asdict(event) for event in inventory.events],
        "replicas": [_replica(inventory, replica) for replica in replicas],
        "policy": [
            {
                "name": rule.name,
                "source": rule.source,
                "expects": rule.expects.format(**policy),
                "test": _TESTS + POLICY_TESTS.get(rule.name, _BAD_CLAIM),
            }
            for rule in rules.RULES
        ],
        "not_covered": list(NOT_COVERED),
    }


def _replica(inventory: audit.Inventory, replica: Replica) -> dict[str, Any]:
    """A replica's answer beside the keys that are here."""
    alive = [key.kid for key in inventory.live_keys()]
    return asdict(replica) | {
        "same": replica.ready and replica.digest == inventory.keyring.digest,
        "lacks": [] if replica.problem else [kid for kid in alive if kid not in replica.kids],
        "trusts": [kid for kid in replica.kids if kid not in alive],
    }


def render_html(document: dict[str, Any]) -> str:
    """One self-contained HTML render_html: no network, no scripts."""
    environment = Environment(
        loader=PackageLoader("verifier.rotation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"utc": utc, "span": format_duration}
    return environment.get_template("report.html").render(
        document, picture=_chart_layout(document), revocation_test=REVOCATION_TEST
    )


def _chart_layout(document: dict[str, Any]) -> dict[str, Any]:
    """Positions of the picture, in per cent of the time shown."""
    now, keys = document["made_at"], document["keys"]
    instants = [now, *(k[n] for k in keys for n in ("made_at", "nbf", "verifies_until") if k[n] is not None)]
    margin = max(document["window"]["overlap_s"], (max(instants) - min(instants)) // 25)
    first, last = min(instants) - margin, max(instants) + margin
    step = next((step for step in _STEPS_S if last - first <= 7 * step), (last - first) // 6)

    def at(instant: int) -> float:
        return float(round(100 * (instant - first) / (last - first), 2))

    marks: list[dict[str, Any]] = []
    for number, switch in enumerate(document["switches"], start=1):
        if not marks or at(switch["at"]) - marks[-1]["at"] >= _LABEL_GAP_PERCENT:
            marks.append({"at": at(switch["at"]), "first": number, "lines": []})
        marks[-1] |= {"last": number, "lines": [*marks[-1]["lines"], at(switch["at"])]}
    return {
        "now": at(now),
        "ticks": [
            {"at": at(tick), "label": utc(tick)[:10] if step >= _DAY_S else utc(tick)[5:16]}
            for tick in range(first - first % step + step, last, step)
        ],
        "marks": marks,
        "bars": {
            key["kid"]: [
                {"state": str(state), "from": at(start), "until": at(until)}
                for state, start, until in _state_intervals(key, last)
                if start < until
            ]
            for key in keys
        },
    }


def _state_intervals(key: dict[str, Any], last: int) -> Iterator[tuple[str, int, int]]:
    """What a key was and will be, one stretch of time after the other; some are empty."""
    end = last if key["verifies_until"] is None else key["verifies_until"]
    begin = min(max(key["nbf"], key["made_at"]), end)
    yield KeyState.PENDING, key["made_at"], begin
    for start, until in key["signs"]:
        yield KeyState.RETIRING, begin, start
        begin = end if until is None else until
        yield KeyState.CURRENT, start, begin
    yield KeyState.RETIRING, begin, end
    cause = {key["revoked_at"]: KeyState.REVOKED, key["removed_at"]: history.REMOVED}.get(end, KeyState.EXPIRED)
    yield cause, end, last
