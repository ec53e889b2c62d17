"""Refreshing at most once per interval, from many threads, and after a fork."""

import os
import threading
from collections.abc import Callable

import pytest
from freezegun import freeze_time

from verifier.storage.refresher import Refresher


def test_it_refreshes_at_the_first_call_and_once_per_interval():
    calls: list[int] = []
    with freeze_time("2027-01-15 08:00:00") as clock:
        refresher = Refresher(lambda: calls.append(1), interval_s=2)
        for elapsed, expected in ((0, 1), (1.9, 1), (0.1, 2), (0, 2), (100, 3)):
            clock.tick(elapsed)
            refresher()
            assert len(calls) == expected


def test_the_interval_is_a_second():
    calls: list[int] = []
    with freeze_time("2027-01-15 08:00:00") as clock:
        refresher = Refresher(lambda: calls.append(1))
        for elapsed, expected in ((0, 1), (0.99, 1), (0.01, 2)):
            clock.tick(elapsed)
            refresher()
            assert len(calls) == expected


def test_a_refresh_that_fails_is_tried_again_by_the_next_call():
    outcomes = iter([OSError("disk"), None])

    def refresh() -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome

    refresher = Refresher(refresh)
    with pytest.raises(OSError, match="disk"):
        refresher()
    refresher()
    assert list(outcomes) == []


def forked(function: Callable[[], int]) -> int:
    """The exit status of a child that runs a function."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = function()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # which is what is tested
def test_a_child_that_is_forked_during_a_refresh_refreshes_for_itself():
    inside, leave = threading.Event(), threading.Event()
    calls: list[int] = []

    def refresh() -> None:
        calls.append(os.getpid())
        inside.set()
        leave.wait(10)

    refresher = Refresher(refresh)
    thread = threading.Thread(target=refresher)
    thread.start()
    try:
        assert inside.wait(10)

        def child() -> int:
            leave.set()  # of the child; the thread of the parent does not exist here
            refresher()
            refresher()
            return calls.count(os.getpid())

        assert forked(child) == 1
    finally:
        leave.set()
        thread.join(10)
    assert calls == [os.getpid()]
