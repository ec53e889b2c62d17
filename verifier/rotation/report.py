"""The report for the reviewer of the keys: what was trusted when, who changed what, and what it does not cover."""

import itertools
from dataclasses import asdict
from typing import Any

from verifier._version import __version__
from verifier.core import rules
from verifier.core.encoding import printable
from verifier.core.keyring import KeyState
from verifier.core.times import format_duration, utc
from verifier.rotation import audit, replica_checks, switch_checks
from verifier.rotation.chart import chart_layout
from verifier.rotation.confirmations import summarize_revocation
from verifier.rotation.history import Confirmation, Event, SecretEvent, first_events, merged_events
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import rotate_by
from verifier.rotation.replicas import Replica
from verifier.rotation.witness import SIGNATURES, parse_time

SCHEMA_VERSION = 1  # of `report --json` and `audit --json`; raised when a member is removed or changes its meaning
NOT_COVERED = (
    "Who read a private key. A copy leaves no trace here; only use in an HSM or a cloud KMS would.",
    "Whether a deleted private key is gone from disks and backups: deletion unlinks a file.",
    "A rewrite of the history together with git, by someone who controls both: only an anchor that was kept elsewhere "
    "shows it. Lines that were added after the anchor and removed again, together with git, are not shown at all.",
    "Commits that no branch or tag contains, such as an amended one that held a private key.",
    "The true name behind an account: it comes from the environment of the command. A signed commit proves more.",
    "Replay: a token can be used again until it expires. There is no database to remember it.",
    "Revocation between the change of the file and the moment a replica has read it: "
    "one second, and the delay of the mount (kubelet: up to two minutes).",
    "Replicas that were not queried, and what a replica did before or after it was queried.",
    "Whether what a replica reports is true: a manipulated one can report any keys, clock, settings and last use.",
    "Single sign-ins: neither the verifier nor this page keeps a list of accepted tokens.",
    "Accounts: whether a player may sign in is decided when the token is issued.",
    "TLS, rate limits and the escs side.",
)
GIT_MEMBERS = ("present", "commit", "clean", "uncommitted", "problems", "unsearched")
_KINDS = {Event: "key", SecretEvent: "secret", Confirmation: "confirmation"}


def evidence(inventory: Inventory) -> dict[str, Any]:
    """Return what an auditor keeps: the anchor, the commit, and what the history was compared with."""
    anchor, since = inventory.anchor, inventory.since
    added = max(0, anchor.lines - since.lines) if since else 0
    return {
        "schema_version": SCHEMA_VERSION,
        "made_at": inventory.now,
        "version": __version__,
        "anchor": asdict(anchor) | {"text": str(anchor)},
        "since": since
        and asdict(since) | {"text": str(since), "continued": not inventory.since_problem, "added": added},
        "git": {name: getattr(inventory.witness, name) for name in GIT_MEMBERS},
        "key_set_digest": inventory.keyring.digest,
        "settings": asdict(inventory.window)
        | {"overlap_s": inventory.window.overlap_s, "cryptoperiod_s": inventory.cryptoperiod_s},
    }


def build_report(inventory: Inventory) -> dict[str, Any]:
    """Return the report as data; the page shows the same."""
    found = audit.findings(inventory)
    worst = audit.worst(found)
    events = merged_events(inventory.history.events)
    revoked_by = {e.kid: e.by for e in events if e.new == KeyState.REVOKED != e.old and e.command != "merge"}
    keys = switch_checks.keys(inventory)
    # By when they began to sign, or would have, so that switches are in their order.
    keys.sort(key=lambda row: (row["signs"][0][0] if row["signs"] else row["nbf"], row["made_at"]))
    first = first_events(inventory.history.events)
    for row in keys:
        event = first.get(row["kid"])
        row["made_by"], row["made_with"] = (event.by, event.command) if event else ("", "")
        row["origin"] = f"{event.note} (file {event.origin[:16]}...)".lstrip() if event and event.origin else ""
        revoked_at = row["revoked_at"]
        row["revocation"] = revoked_at and summarize_revocation(inventory.history.confirmations, revoked_at)
        row["last_use"] = inventory.last_use.get(("key", row["kid"]))
        row["revoked_by"] = revoked_by.get(row["kid"], "")
    return evidence(inventory) | {
        "rotate_by": rotate_by(inventory.keyring, inventory.now, inventory.cryptoperiod_s),
        "failed": any(finding.fails for finding in found),
        "worst": worst and asdict(worst),
        "keys": keys,
        "switches": switch_checks.switches(inventory),
        "applications": _applications(inventory),
        "findings": [asdict(finding) for finding in found],
        "rules": [
            {name: getattr(rule, name) for name in ("id", "severity", "requirement", "clause", "remediation", "anchor")}
            | {
                "violations": sum(finding.rule == rule.id for finding in found),
                "needs": "" if inventory.has(rule.needs) else rule.needs,
            }
            for rule in audit.RULES
        ],
        "history": _history(inventory),
        "replicas": [_replica(inventory, replica) for replica in inventory.replicas],
        "policy": _policy(inventory),
        "not_covered": list(NOT_COVERED),
    }


def _policy(inventory: Inventory) -> list[dict[str, str]]:
    values = {
        "leeway_s": inventory.window.leeway_s,
        "max_lifetime_s": inventory.window.max_lifetime_s,
        "issuer": "the configured issuer",
        "application_id": "the applicationId of the request",
    }
    return [
        {"name": rule.name, "clause": rule.source, "expects": rule.expects.format(**values)} for rule in rules.RULES
    ]


def _history(inventory: Inventory) -> list[dict[str, Any]]:
    """Return the lines of the audit period, each with the commit that added it."""
    start = inventory.since.lines if inventory.since else 0
    lines = itertools.zip_longest(inventory.history.lines, inventory.witness.lines)
    return [
        asdict(line) | {"line": number, "kind": _KINDS[type(line)], "commit": commit and asdict(commit)}
        for number, (line, commit) in enumerate(lines, start=1)
        if line is not None and number > start
    ]


def _applications(inventory: Inventory) -> list[dict[str, Any]]:
    """Return the active secrets of each application, with who set them."""
    known = inventory.applications.by_id.values() if inventory.applications else ()
    changes = {(event.application, event.sha256): event for event in inventory.history.secrets}
    rows: list[dict[str, Any]] = [{"id": application.id, "secrets": []} for application in known]
    for application, row in zip(known, rows, strict=True):
        for slot, secret in enumerate(application.secrets, start=1):
            digest = secret.digest.hex()[:12]
            change = changes.get((application.id, digest))
            row["secrets"].append(
                {
                    "slot": slot,
                    "sha256": digest,
                    "weakness": secret.weakness,
                    "set_at": change and change.at,
                    "set_by": change.by if change else "",
                    "last_use": inventory.last_use.get(("secret", f"{application.id} {slot}")),
                }
            )
    return rows


def _replica(inventory: Inventory, replica: Replica) -> dict[str, Any]:
    """Return a replica's response beside the keys that are here."""
    found = audit.replica_findings(inventory, replica)
    return asdict(replica) | {
        "same": replica_checks.same(inventory, replica),
        "lacks": replica_checks.lacking(inventory, replica),
        "trusts": replica_checks.trusted_without_reason(inventory, replica),
        "violations": list(dict.fromkeys(finding.rule for finding in found)),
        "found": [finding.found for finding in found],
    }


def _visible(value: Any) -> Any:
    """Escape the control characters of text; markup of the template stays as it is."""
    return printable(value) if type(value) is str else value


def _exact(name: str) -> str:
    """Add the escapes of letters that are not ASCII, because they can look like others."""
    return name if name.isascii() else f"{name} ({name.encode('ascii', 'backslashreplace').decode()})"


def render_html(document: dict[str, Any]) -> str:
    """Return one self-contained HTML page: no network, no scripts.

    It can be encoded as UTF-8, whatever the history and the replicas contain.
    """
    # Here, because the audit runs without it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("verifier.rotation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"utc": utc, "span": format_duration, "exact": _exact, "instant": parse_time}
    template = environment.get_template("report.html")
    html = template.render(document, picture=chart_layout(document), signatures=SIGNATURES)
    return html.encode("utf-8", "backslashreplace").decode()
