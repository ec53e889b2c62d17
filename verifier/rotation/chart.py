"""Positions of the timeline on the report page."""

from collections.abc import Iterator
from typing import Any

from verifier.core.keyring import KeyState
from verifier.core.times import utc
from verifier.rotation import history

_LABEL_GAP_PERCENT = 5  # of the width: switches nearer to each other share one label
_DAY_S = 86_400
_STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, *(n * _DAY_S for n in (1, 2, 7, 14, 28, 91, 182, 365)))


def chart_layout(document: dict[str, Any]) -> dict[str, Any]:
    """Return the positions of bars, switches and dates, in per cent of the time shown."""
    now, keys = document["made_at"], document["keys"]
    instants = [now, *(k[n] for k in keys for n in ("made_at", "nbf", "verifies_until") if k[n] is not None)]
    margin = max(document["settings"]["overlap_s"], (max(instants) - min(instants)) // 25)
    first, last = min(instants) - margin, max(instants) + margin
    step = next((step for step in _STEPS_S if last - first <= 7 * step), (last - first) // 6)

    def at(instant: int) -> float:
        return float(round(100 * (instant - first) / (last - first), 2))

    marks: list[dict[str, Any]] = []
    for switch in document["switches"]:
        if not marks or at(switch["at"]) - marks[-1]["at"] >= _LABEL_GAP_PERCENT:
            marks.append({"at": at(switch["at"]), "first": switch["number"], "lines": []})
        marks[-1] |= {"last": switch["number"], "lines": [*marks[-1]["lines"], at(switch["at"])]}
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
    """Yield the states of a key with their start and end, in order; some are empty."""
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
