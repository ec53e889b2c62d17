"""Conflict markers, which version control writes into a file that both branches changed."""

import re

_MARKER = re.compile(rb"^(<{7}|\|{7}|={7}|>{7})( .*)?\r?$", re.MULTILINE)


def has_conflict_markers(content: bytes) -> bool:
    """Return whether a file contains an unresolved merge."""
    return _MARKER.search(content) is not None


def is_marker(line: bytes) -> bool:
    """Return whether a line, with or without its end, is a marker."""
    return _MARKER.match(line) is not None
