"""Checks of the switches: that each was published in time, and left the old key as long as its tokens needed."""

from collections.abc import Iterator
from typing import Any

from verifier.core.times import duration, format_duration, utc
from verifier.rotation import confirmations, timeline
from verifier.rotation.history import ABSENT
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy
from verifier.rotation.violation import Violation, Violations

_AFTER_SWITCH = (
    "it signs already: prove that every replica has it by now (--replica URL), and find out what players saw; "
    "after the review, audit from its anchor on: --since N:DIGEST"
)


def keys(inventory: Inventory) -> list[dict[str, Any]]:
    """Return every key with its intervals of trust and of signing."""
    return timeline.keys(inventory.keyring, inventory.history.events, inventory.window, inventory.now)


def switches(inventory: Inventory) -> list[dict[str, Any]]:
    """Return the switches of the audit period: those after the last line that the anchor covers."""
    running_s = max((p.overlap_s for r in inventory.replicas if (p := OverlapPolicy.recorded(r))), default=0)
    found = timeline.transitions(keys(inventory), inventory.history.confirmations, running_s, inventory.now)
    return [switch for switch in found if inventory.in_period(switch["at"])]


def overlap(inventory: Inventory) -> Violations:
    """Find keys that end before their last token, until that token has expired."""
    short = {
        (s["from"], s["old_ends"], s["at"] + s["needed_s"], s["needed_by_replicas"])
        for s in switches(inventory)
        if s["verdict"] == "too short"
    }
    fallbacks = timeline.fallbacks(keys(inventory), inventory.window)
    for kid, ends, needed, by_replicas in sorted(short | {(*fallback, False) for fallback in fallbacks}):
        if inventory.now < needed:
            why = ", by the settings of the replicas" if by_replicas else ""
            yield f"{kid} expires {utc(ends)}, its last tokens {utc(needed)}{why}"


def short_lead(inventory: Inventory) -> Violations:
    """Find keys that sign, or signed, before every replica was known to have them."""
    live = {key.kid for key in inventory.live_keys()}
    for row, found in _short_leads(inventory):
        signs = row["nbf"] <= inventory.now
        if row["kid"] in live and (not signs or inventory.in_period(row["nbf"])):
            yield Violation(f"{row['kid']} was {found}", _AFTER_SWITCH if signs else "")


def _short_leads(inventory: Inventory) -> Iterator[tuple[dict[str, Any], str]]:
    events = inventory.history.events
    published = {event.kid: event for event in events if event.old == ABSENT}
    for row in keys(inventory):
        event, nbf, lead_s = published.get(row["kid"]), row["nbf"], row["nbf"] - row["made_at"]
        rotated = event is not None and event.nbf == nbf and event.command in ("rotate", "import")
        # The first key has no replicas to wait for, and a revocation must not wait.
        first = event is not None and (event.at, event.command) == (events[0].at, events[0].command)
        if first or not (rotated or nbf > inventory.now) or lead_s >= PROPAGATION_S:
            continue
        planned_s = ((event and OverlapPolicy.recorded(event)) or inventory.window).overlap_s
        confirmed = confirmations.summarize(inventory.history.confirmations, row["made_at"], nbf, planned_s)
        if confirmed is None or confirmed["confirmed"] < confirmed["replicas"]:
            verb = "signs" if nbf > inventory.now else "signed"
            forced = ", with --force" if event is not None and event.force else ""
            yield row, f"published {format_duration(lead_s)} before it {verb}{forced}"


def past(inventory: Inventory) -> Violations:
    """Find switches of the audit period that are over and went wrong, which no other rule finds any more."""
    live = {key.kid for key in inventory.live_keys()}
    leads = {row["kid"]: found for row, found in _short_leads(inventory) if row["kid"] not in live}
    for switch in switches(inventory):
        at, confirmed, found = switch["at"], switch["confirmation"], []
        if at > inventory.now:
            continue
        if switch["verdict"] == "too short" and inventory.now >= at + switch["needed_s"]:
            found.append(f"the old key ended {format_duration(switch['needed_s'] - switch['overlap_s'])} too early")
        if switch["gap_s"]:
            found.append(f"no key could sign for {format_duration(switch['gap_s'])}")
        if switch["to"] in leads:
            found.append(f"the new key was {leads[switch['to']]}")
        if confirmed is not None and confirmed["confirmed"] < confirmed["replicas"]:
            found.append(f"confirmed on {confirmed['confirmed']} of {confirmed['replicas']} replicas")
        if found:
            yield f"switch {switch['number']}, {utc(at)}: {'; '.join(found)}"


def past_cryptoperiod(inventory: Inventory) -> Violations:
    """Find keys that signed for too long in the audit period, and no longer do."""
    limit_s = inventory.cryptoperiod_s
    for row in keys(inventory):
        for start, until in row["signs"]:
            if until is not None and until <= inventory.now and until - start > limit_s and inventory.in_period(until):
                yield f"{row['kid']} signed for {(until - start) // 86_400} days, at most {duration(limit_s)}"
