"""Default durations, and points in time and durations as text."""

from datetime import UTC, datetime

# Here, so that commands can name them without a cryptography library.
MAX_LIFETIME_S = 300  # of a token
DEFAULT_LIFETIME_S = 120  # of issued tokens, because with the maximum, rounding would cause rejections
LEEWAY_S = 30
LEAD_S = 3600  # from publishing a key to its first signature
RETENTION_S = 400 * 86_400  # a public file after its key has ended
CRYPTOPERIOD_S = 90 * 86_400  # how long a key signs
MAX_TIME = 10**11  # the year 5138; as milliseconds 1973, so a larger number is in milliseconds
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def utc(instant: float) -> str:
    """Format a point in time in UTC."""
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"


def when(instant: float) -> str:
    """Format a point in time in local time and in UTC; once, where they are the same."""
    local = datetime.fromtimestamp(instant).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({utc(instant)})" if local.utcoffset() else utc(instant)


def duration(seconds: int) -> str:
    """Format a duration as an option takes it, in its largest whole unit: `1h`, `90m`, `400d`."""
    unit = next(unit for unit in "dhms" if seconds % UNITS_S[unit] == 0)
    return f"{seconds // UNITS_S[unit]}{unit}"


def format_duration(seconds: int) -> str:
    """Format a duration to the second: `90 d 6 min`."""
    parts = (seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
