"""Points in time and durations as text."""

import re
from datetime import UTC, datetime

MAX_TIME = 10**11  # the year 5138; as milliseconds 1973, so a larger number is in milliseconds
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def utc(instant: float) -> str:
    """Format a point in time in UTC."""
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"


def when(instant: float) -> str:
    """Format a point in time in local time and in UTC."""
    local = datetime.fromtimestamp(instant).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({utc(instant)})"


def clock_time(instant: float, now: float) -> str:
    """Format a point in time in local time: `11:02`, with the date if it is on another day than now."""
    local, today = datetime.fromtimestamp(instant).astimezone(), datetime.fromtimestamp(now).astimezone()
    return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"


def duration(seconds: int) -> str:
    """Format a duration as an option takes it, in its largest whole unit: `1h`, `90m`, `400d`."""
    unit = next(unit for unit in "dhms" if seconds % _UNITS_S[unit] == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"


def seconds(text: str) -> int:
    """Parse `90s`, `30m`, `1h` or `90d` into seconds.

    Raises:
        ValueError: it is not a whole number and a unit.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise ValueError("expected a whole number and a unit: 90s, 30m, 1h, 90d")
    return int(match[1]) * _UNITS_S[match[2]]


def format_duration(seconds: int) -> str:
    """Format a duration to the second: `90 d 6 min`."""
    parts = (seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
