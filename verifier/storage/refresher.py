"""Reading files again at most once per second, for objects that many threads and forked processes use."""

import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

REFRESH_INTERVAL_S = 1


class Resettable(Protocol):
    """An object with locks, threads, buffers or content that was read, of which a child must not use the copies."""

    def reset(self) -> None:
        """Replace them, and read again at the next use."""


_resettable: "weakref.WeakSet[Resettable]" = weakref.WeakSet()


def reset_in_child(resettable: Resettable) -> None:
    """Call the object's `reset` in every forked child, for as long as the object is used.

    Because a lock that another thread holds at the fork is never released in the child.
    """
    _resettable.add(resettable)


def reset_all() -> None:
    """Reset every registered object."""
    for resettable in _resettable:
        resettable.reset()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=reset_all)


class Refresher:
    """Calls `refresh(now)` at most once per second, in the thread that asks first; the others wait for it.

    Survives a fork: the child has a lock of its own and reads again.
    """

    def __init__(self, refresh: Callable[[float], object]) -> None:
        self._refresh = refresh
        self.reset()
        reset_in_child(self)

    def reset(self) -> None:
        """Replace the lock, which another thread may have held at the fork, and make the next call refresh."""
        self._lock, self._read_at = threading.Lock(), -math.inf

    def __call__(self, now: float) -> None:
        """Refresh if a second has passed since the last time, or if the clock was set back."""
        with self._lock:
            # Not every earlier time: another thread may have read the clock first and the files second.
            if abs(now - self._read_at) >= REFRESH_INTERVAL_S:
                self._refresh(now)
                self._read_at = now
