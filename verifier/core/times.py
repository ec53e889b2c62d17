"""Instants and durations in words."""

import re
from datetime import UTC, datetime

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def utc(instant: float) -> str:
    """An instant as a reviewer anywhere reads it."""
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"


def when(instant: float) -> str:
    """An instant in local time and in UTC."""
    local = datetime.fromtimestamp(instant).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({utc(instant)})"


def duration(seconds: int) -> str:
    """A duration in its largest whole unit: `1h`, `90m`, `400d`."""
    unit = next(unit for unit in "dhms" if seconds % _UNITS_S[unit] == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"


def seconds(text: str) -> int:
    """The seconds of `90s`, `30m`, `1h` or `90d`; raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise ValueError("expected a whole number and a unit: 90s, 30m, 1h, 90d")
    return int(match[1]) * _UNITS_S[match[2]]
