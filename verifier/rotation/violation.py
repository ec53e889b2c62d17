"""One thing that does not hold, as a check reports it."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """What was found, and how to repair it where the rule's own remediation does not fit."""

    found: str
    remediation: str = ""


Violations = Iterator[Violation | str]
