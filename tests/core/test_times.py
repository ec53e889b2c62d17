"""Instants and durations in words."""

import time

import pytest

from verifier.core import times


def test_an_instant_is_shown_in_local_time_and_in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert times.when(1_800_000_000) == "2027-01-15 09:00:00 CET (2027-01-15 08:00:00 UTC)"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert times.utc(1_800_000_000.9) == "2027-01-15 08:00:00 UTC"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("30m", 1800), ("1h", 3600), ("90m", 5400), ("400d", 34_560_000)]
)
def test_a_duration_has_a_number_and_a_unit(text, seconds):
    assert times.seconds(text) == seconds
    assert times.seconds(times.duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1 h", "1w", "٣h", "1234567890s"])
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"^expected a whole number and a unit: 90s, 30m, 1h, 90d$"):
        times.seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (1, "1 s"), (360, "6 min"), (90 * 86_400 + 361, "90 d 6 min 1 s"), (3600, "1 h")]
)
def test_a_duration_is_shown_to_the_second(seconds, text):
    assert times.format_duration(seconds) == text
