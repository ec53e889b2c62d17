"""One thing that does not hold: of a rule of the audit, or of what a command needs to plan."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """What was found where, and how to repair it; for a rule only where its own remediation does not fit."""

    found: str
    remediation: str = ""


Violations = Iterable[Violation | str]
