"""Which change of an application's secrets is safe, and the file that it writes."""

import json

from verifier.core.applications import MAX_SECRETS, Application, Applications, Secret
from verifier.core.encoding import describe_flaw, is_utf8_encodable
from verifier.errors import UnsafeOperationError


def add_secret(known: Applications, application_id: str, secret: Secret) -> Applications:
    """Return the applications with one more secret.

    Raises:
        UnsafeOperationError: both slots are taken, or the secret is there already.
    """
    flaw = describe_flaw(application_id) if is_utf8_encodable(application_id) else "is not UTF-8"
    if not application_id or flaw:
        raise UnsafeOperationError(f"the application id {flaw or 'is empty'}")
    application = known.by_id.get(application_id, Application(application_id, ()))
    if any(secret.digest == other.digest for other in application.secrets):
        raise UnsafeOperationError(f"application {application_id} has this secret already")
    if len(application.secrets) == MAX_SECRETS:
        raise UnsafeOperationError(
            f"application {application_id} has {MAX_SECRETS} active secrets already",
            hint=f"remove one first: verifier applications remove-secret {application_id} --slot 1",
        )
    return _with_secrets(known, application_id, (*application.secrets, secret))


def remove_secret(known: Applications, application_id: str, slot: int) -> Applications:
    """Return the applications without the secret in slot 1 or 2.

    Raises:
        UnsafeOperationError: the slot is empty, or its secret is the only one.
    """
    application = known.by_id.get(application_id)
    if application is None:
        raise UnsafeOperationError(f"application {application_id} is unknown", hint="verifier applications list")
    if not 1 <= slot <= len(application.secrets):
        raise UnsafeOperationError(f"application {application_id} has no secret in slot {slot}")
    if len(application.secrets) == 1:
        raise UnsafeOperationError(
            f"the only secret of application {application_id} cannot be removed: every sign-in would be refused",
            hint=f"accept the next one first: verifier applications rotate-secret {application_id}",
        )
    return _with_secrets(known, application_id, application.secrets[: slot - 1] + application.secrets[slot:])


def _with_secrets(known: Applications, application_id: str, secrets: tuple[Secret, ...]) -> Applications:
    return Applications((known.by_id | {application_id: Application(application_id, secrets)}).values())


def dump(known: Applications) -> bytes:
    """Encode as the content of an applications file, which `parse` reads."""
    entries = [{"id": name, "secrets": list(map(_dump, found.secrets))} for name, found in known.by_id.items()]
    return json.dumps({"applications": entries}, indent=2).encode() + b"\n"


def _dump(secret: Secret) -> dict[str, str]:
    return {"sha256": secret.digest.hex()} | ({"weakness": secret.weakness} if secret.weakness else {})
