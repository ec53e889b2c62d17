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
    ("seconds", "text"), [(0, "0d"), (90, "90s"), (1800, "30m"), (3600, "1h"), (5400, "90m"), (34_560_000, "400d")]
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds, text):
    assert times.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (1, "1 s"), (360, "6 min"), (90 * 86_400 + 361, "90 d 6 min 1 s"), (3600, "1 h")]
)
def test_a_duration_is_shown_to_the_second(seconds, text):
    assert times.format_duration(seconds) == text
