"""The line that a change of a key leaves in the history."""

import getpass
import os
from collections.abc import Mapping
from typing import Any

from verifier._version import __version__
from verifier.rotation.history import ABSENT, Event
from verifier.rotation.plan import KeyChange


def make_event(
    step: KeyChange, command: str, *, now: int, context: Mapping[str, Any] | None = None, alg: str = ""
) -> Event:
    """Return the event of a change; `context` are the settings that it was computed with."""
    members, context = step.members or {}, context or {}
    if step.old != ABSENT:  # the source of an imported key is not that of the key before it
        context = {name: value for name, value in context.items() if name not in ("origin", "note")}
    return Event(
        at=now,
        by=user_name(),
        command=command,
        kid=step.kid,
        old=step.old,
        new=step.new,
        reason=step.reason,
        nbf=members.get("nbf"),
        exp=members.get("exp"),
        previous_exp=step.previous_exp,
        revoked_at=members.get("revoked", {}).get("revoked_at"),
        iat=members.get("iat"),
        alg=members.get("alg", alg),
        version=__version__,
        **context,
    )


def user_name() -> str:
    """Return the name of the account in UTF-8; bytes that are not UTF-8 are escaped."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        name = str(os.getuid())
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")[:256]
