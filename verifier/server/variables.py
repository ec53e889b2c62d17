"""Environment variables that look like settings: misspelt ones, and those that Kubernetes sets."""

import difflib
import re
from collections.abc import Iterable, Mapping

from verifier.errors import ConfigError

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
# What Kubernetes sets for a Service whose name begins with "verifier" (docker container links have the same form).
_SERVICE_VARIABLE = re.compile(
    r"VERIFIER(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)|VERIFIER(_\w+)?_NAME"
)
# Of other commands, and of the files in deploy/.
_OTHERS = frozenset({"VERIFIER_TOKEN", "VERIFIER_SITE", "VERIFIER_UPSTREAM", "VERIFIER_COMPLETE"})


def refuse_service_link(text: str, name: str) -> None:
    """Refuse the address that Kubernetes sets for a Service in the place of a number.

    Raises:
        ConfigError: it is one.
    """
    if _SERVICE_LINK.match(text):
        raise ConfigError(
            f"{name} is the address of a Kubernetes Service, not a number",
            hint="set enableServiceLinks: false in the pod, or give the Service another name",
        )


def unknown_variables(variables: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Describe each variable that is not a setting, with the nearest one; values are not shown.

    Where the prefix is misspelt, or in lower case, the rest must be right: the variable may be of another program.
    """
    known, texts = set(known), []
    for name, value in sorted(variables.items()):
        ours = name.startswith("VERIFIER_")
        if not value or not name.upper().startswith("VERI") or name in known or name in _OTHERS:
            continue
        if _SERVICE_VARIABLE.fullmatch(name) or _SERVICE_LINK.match(value):
            continue
        nearest = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.75 if ours else 0.9)
        shown = name if name.isprintable() else ascii(name)
        if ours or nearest:
            texts.append(f"{shown} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return texts
