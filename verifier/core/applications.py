"""Client credentials: application ids and the SHA-256 digests of their secrets."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from verifier.core.encoding import MAX_FILE_CONTAINERS, describe_flaw, is_utf8_encodable, loads_object
from verifier.errors import ConfigError, InvalidClient

MIN_SECRET_CHARACTERS = 16
BYTE_ORDER_MARK = "\ufeff"
MAX_SECRETS = 2  # the old and the new one, so that a secret can change without a rejected sign-in


@dataclass(frozen=True, slots=True)
class Secret:
    """A shared secret, of which only the SHA-256 digest is kept."""

    digest: bytes = field(repr=False)
    weakness: str = ""  # why it is weak, or ""

    @classmethod
    def of(cls, text: str) -> "Secret":
        """Digest a secret as it was typed, without a byte order mark that an editor put before it.

        Raises:
            ConfigError: it is empty or not UTF-8.
        """
        text = text.removeprefix(BYTE_ORDER_MARK)
        if not text or not is_utf8_encodable(text):
            raise ConfigError("the secret is empty or not UTF-8")
        weakness = describe_flaw(text).removeprefix("is ")
        if len(text) < MIN_SECRET_CHARACTERS:
            weakness = f"shorter than {MIN_SECRET_CHARACTERS} characters"
        elif text != text.strip():
            weakness = "white space at an end"
        return cls(hashlib.sha256(text.encode()).digest(), weakness)


@dataclass(frozen=True, slots=True)
class Application:
    """An application of the escs dashboard and its active secrets, oldest first."""

    id: str
    secrets: tuple[Secret, ...] = field(repr=False)


class Applications:
    """An immutable set of applications."""

    def __init__(self, applications: Iterable[Application] = ()) -> None:
        self.by_id = {application.id: application for application in applications}
        # Always two digests, so that timing reveals neither whether an application exists nor how many secrets it
        # has. Random bytes take the place of a missing secret.
        self._dummy_digests = (secrets.token_bytes(32), secrets.token_bytes(32))
        self._digests = {
            application.id: (*(secret.digest for secret in application.secrets), *self._dummy_digests)[:MAX_SECRETS]
            for application in self.by_id.values()
        }

    def authenticate(self, *, application_id: str, secret: str) -> int:
        """Return the slot of the secret that matched, 0 or 1. Does the same work for every input.

        Raises:
            InvalidClient: the application is unknown or the secret is wrong.
        """
        known = self._digests.get(application_id, self._dummy_digests)
        # Digests, because hmac.compare_digest raises TypeError on text that is not ASCII. JSON can carry an
        # unpaired surrogate, which no real secret contains.
        presented = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        first = hmac.compare_digest(presented, known[0])
        second = hmac.compare_digest(presented, known[1])
        if not (first or second):
            raise InvalidClient
        return 0 if first else 1

    def weaknesses(self) -> list[str]:
        """Describe the weak secrets in text that may be logged."""
        return [
            f"secret {slot} of application {application.id} is weak: {secret.weakness}"
            for application in self.by_id.values()
            for slot, secret in enumerate(application.secrets, start=1)
            if secret.weakness
        ]


def parse(data: bytes) -> tuple[Applications, list[str]]:
    """Parse an applications file: return its applications, and a description of each invalid entry.

    Raises:
        ConfigError: the file as a whole is invalid.
    """
    try:
        entries = loads_object(data, max_containers=MAX_FILE_CONTAINERS).get("applications")
    except ValueError as exc:
        raise ConfigError(f"the file {exc}") from exc
    if not isinstance(entries, list):
        raise ConfigError('the file has no list "applications"')
    found: dict[str, Application] = {}
    problems = []
    for number, entry in enumerate(entries, start=1):
        # An id is printed in logs and on terminals, and compared with what escs sends.
        application_id = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(application_id, str) and (flaw := describe_flaw(application_id)):
            problems.append(f"the id of entry {number} {flaw}")
        elif (application := _parse_entry(entry)) is None:
            problems.append(f"entry {number} is not an application with 1 or 2 secrets (sha256: 64 hex digits)")
        elif application.id in found:
            problems.append(f"entry {number} repeats the id of another")
        else:
            found[application.id] = application
    return Applications(found.values()), problems


def _parse_entry(entry: Any) -> Application | None:
    try:
        name = entry["id"]
        live = tuple(Secret(bytes.fromhex(s["sha256"]), s.get("weakness", "")) for s in entry["secrets"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(name, str) or not name or not 1 <= len(live) <= MAX_SECRETS:
        return None
    valid = all(len(secret.digest) == 32 and is_utf8_encodable(secret.weakness) for secret in live)
    return Application(name, live) if valid else None
