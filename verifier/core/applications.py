"""Client credentials: application ids and the SHA-256 digests of their secrets."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from verifier.core.encoding import MAX_FILE_CONTAINERS, describe_flaw, is_utf8_encodable, loads_object
from verifier.errors import ConfigError, InvalidClient, UnsafeOperationError

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
        weakness = ""
        if len(text) < MIN_SECRET_CHARACTERS:
            weakness = f"shorter than {MIN_SECRET_CHARACTERS} characters"
        elif text != text.strip():
            weakness = "white space at an end"
        elif describe_flaw(text):
            weakness = describe_flaw(text)
        return cls(hashlib.sha256(text.encode()).digest(), weakness)


def secret_of_file(data: bytes) -> str:
    """Return the secret that a file holds: without a byte order mark and one newline at the end.

    Editors and `echo` write these, and they are not part of the secret.

    Raises:
        ConfigError: the file is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ConfigError(f"is {'UTF-16, not' if utf16 else 'not'} UTF-8", hint="save the file as UTF-8") from exc
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


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
            f"secret {slot} of application {application.id} is weak ({secret.weakness})"
            for application in self.by_id.values()
            for slot, secret in enumerate(application.secrets, start=1)
            if secret.weakness
        ]

    def with_secret(self, application_id: str, secret: Secret) -> "Applications":
        """Return a copy with one more secret.

        Raises:
            UnsafeOperationError: both slots are taken, or the secret is there already.
        """
        flaw = describe_flaw(application_id) if is_utf8_encodable(application_id) else "is not UTF-8"
        if not application_id or flaw:
            raise UnsafeOperationError(f"the application id {flaw or 'is empty'}")
        application = self.by_id.get(application_id, Application(application_id, ()))
        if any(secret.digest == other.digest for other in application.secrets):
            raise UnsafeOperationError(f"application {application_id} has this secret already")
        if len(application.secrets) == MAX_SECRETS:
            raise UnsafeOperationError(
                f"application {application_id} has {MAX_SECRETS} active secrets already",
                hint=f"remove one first: verifier applications remove-secret {application_id} --slot 1",
            )
        changed = replace(application, secrets=(*application.secrets, secret))
        return Applications((self.by_id | {application_id: changed}).values())

    def without_secret(self, application_id: str, slot: int) -> "Applications":
        """Return a copy without the secret in slot 1 or 2.

        Raises:
            UnsafeOperationError: the slot is empty, or its secret is the only one.
        """
        application = self.by_id.get(application_id)
        if application is None:
            raise UnsafeOperationError(f"application {application_id} is unknown", hint="verifier applications list")
        if not 1 <= slot <= len(application.secrets):
            raise UnsafeOperationError(f"application {application_id} has no secret in slot {slot}")
        if len(application.secrets) == 1:
            raise UnsafeOperationError(
                f"the only secret of application {application_id} cannot be removed: every sign-in would be refused",
                hint=f"accept the next one first: verifier applications rotate-secret {application_id}",
            )
        kept = tuple(secret for n, secret in enumerate(application.secrets, start=1) if n != slot)
        return Applications((self.by_id | {application_id: replace(application, secrets=kept)}).values())

    def dump(self) -> bytes:
        """Encode as the content of an applications file, which `parse` reads."""
        document = {
            "applications": [
                {
                    "id": application.id,
                    "secrets": [
                        {"sha256": s.digest.hex()} | ({"weakness": s.weakness} if s.weakness else {})
                        for s in application.secrets
                    ],
                }
                for application in self.by_id.values()
            ]
        }
        return json.dumps(document, indent=2).encode() + b"\n"


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
        try:
            application = _parse_entry(entry)
        except (KeyError, TypeError, ValueError):
            flaw = describe_flaw(entry["id"]) if isinstance(entry, dict) and isinstance(entry.get("id"), str) else ""
            expected = "is not an application with 1 or 2 secrets (sha256: 64 hex digits)"
            problems.append(f"the id of entry {number} {flaw}" if flaw else f"entry {number} {expected}")
            continue
        if application.id in found:
            problems.append(f"entry {number} repeats the id of another")
            continue
        found[application.id] = application
    return Applications(found.values()), problems


def _parse_entry(entry: Any) -> Application:
    live = tuple(Secret(bytes.fromhex(s["sha256"]), s.get("weakness", "")) for s in entry["secrets"])
    if not _is_id(entry["id"]) or not all(is_utf8_encodable(secret.weakness) for secret in live):
        raise ValueError
    if not 1 <= len(live) <= MAX_SECRETS or any(len(secret.digest) != 32 for secret in live):
        raise ValueError
    return Application(entry["id"], live)


def _is_id(value: object) -> bool:
    # Because it is printed in logs and on terminals, and compared with what escs sends.
    return is_utf8_encodable(value) and value != "" and not describe_flaw(str(value))
