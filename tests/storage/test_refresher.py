"""Refreshing at most once per interval, from many threads, and after a fork."""

import os
import threading
from collections.abc import Callable

import pytest

from verifier.storage.refresher import Refresher


def test_it_refreshes_at_the_first_call_and_once_per_second_by_the_given_time():
    calls: list[float] = []
    refresher = Refresher(calls.append)
    for now, expected in ((5.0, 1), (5.0, 1), (5.99, 1), (6.0, 2), (6.5, 2), (100.0, 3)):
        refresher(now)
        assert len(calls) == expected
    assert calls == [5.0, 6.0, 100.0]


def test_it_refreshes_when_the_clock_was_set_back_but_not_for_a_thread_that_was_a_little_earlier():
    calls: list[float] = []
    refresher = Refresher(calls.append)
    for now in (50.0, 49.01, 49.0, 49.5):
        refresher(now)
    assert calls == [50.0, 49.0]


def test_a_refresh_that_fails_is_tried_again_by_the_next_call():
    outcomes = iter([OSError("disk"), None])

    def refresh(_: float) -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome

    refresher = Refresher(refresh)
    with pytest.raises(OSError, match="disk"):
        refresher(0)
    refresher(0)
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

    def refresh(_: float) -> None:
        calls.append(os.getpid())
        inside.set()
        leave.wait(10)

    refresher = Refresher(refresh)
    thread = threading.Thread(target=refresher, args=(0,))
    thread.start()
    try:
        assert inside.wait(10)

        def child() -> int:
            leave.set()  # of the child; the thread of the parent does not exist here
            refresher(0)
            refresher(0)
            return calls.count(os.getpid())

        assert forked(child) == 1
    finally:
        leave.set()
        thread.join(10)
    assert calls == [os.getpid()]
