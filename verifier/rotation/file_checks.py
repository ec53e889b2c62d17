"""Checks of the files below the key directory: private keys, modes, members and applications."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from verifier.core.keyring import KeyState
from verifier.core.times import utc
from verifier.rotation import history
from verifier.rotation.inventory import Inventory, public_members
from verifier.rotation.violation import Violation, Violations

KID = ("kid does not match", "file name does not match")
STRENGTH = ("RSA key of the wrong size", "kty and crv do not fit", "alg is missing", "octets")
# RFC 7517 and RFC 7518 members of a public signature key, and OpenID Federation 1.0 §8.7.2.
MEMBERS = frozenset({"kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "iat", "nbf", "exp", "revoked"})

# Kubernetes keeps each version of a mounted volume in a folder whose name begins with two dots; an interrupted command
# leaves .<kid>.json.tmp.
_READ = re.compile(r"public/(?:[^/.][^/]*\.json\Z|\.\.|\.[^/]+\.json\.tmp\Z)")


_REPLACE_SECRET = "replace it by a new random one: verifier applications rotate-secret "
_REMOVE_APPLICATION = (
    "if the application is not yours, remove it from the file; otherwise replace the secret: "
    "verifier applications rotate-secret, then remove-secret --slot 1, of "
)


def private_in_public(inventory: Inventory) -> Violations:
    """Find private key material among the public keys."""
    for file in inventory.files:
        if file.name.startswith("public/") and file.is_private_key:
            yield f"{file.path} holds private key material"


def private_elsewhere(inventory: Inventory) -> Violations:
    """Find private keys where no signer loads them, for example copies and backups."""
    signers = {file.name for file in inventory.private_keys()}
    for file in inventory.files:
        if file.is_private_key and file.name not in signers and not file.name.startswith("public/"):
            yield f"{file.path} holds a private key"


def problems(*words: str) -> Callable[[Inventory], Violations]:
    """Return a check for the files that were left out for one of these causes; without words, for any other."""

    def check(inventory: Inventory) -> Violations:
        every = ("private key material", *KID, *STRENGTH)
        for problem in inventory.problems:
            if any(word in problem for word in words) if words else not any(word in problem for word in every):
                yield problem

    return check


def unusable(inventory: Inventory) -> Violations:
    """Find files of public/ that are no usable key, or that no replica reads because of their place or name."""
    yield from problems()(inventory)
    for file in inventory.files:
        unread = file.name.startswith("public/") and not _READ.match(file.name) and not file.is_private_key
        if unread and {"kty", "keys"} & public_members(file).keys():
            expected = f"expected: {inventory.folder}/public/<kid>.json"
            yield Violation(f"{file.path} holds a public key that no replica reads ({expected})", f"remove {file.path}")


def members(inventory: Inventory) -> Violations:
    """Find members of public keys that nothing reads, such as key_ops, which other software could obey; and no use."""
    for file in inventory.files:
        if file.name.startswith("public/") and file.name.endswith(".json"):
            found = public_members(file)
            unknown = sorted(found.keys() - MEMBERS)
            revoked = found.get("revoked")
            if isinstance(revoked, dict):
                unknown += [f"revoked.{name}" for name in sorted(revoked.keys() - {"revoked_at", "reason"})]
            if unknown:
                yield f"{file.path} has members that are not registered here ({', '.join(unknown)})"
            if found and "use" not in found:
                yield f"{file.path} does not state that the key is for signatures (expected: use is sig)"


def private_mode(inventory: Inventory) -> Violations:
    """Find private keys that other accounts can read."""
    names = {file.name for file in inventory.private_keys()} | {"private"}
    for file in inventory.files:
        expected = 0o700 if file.is_folder else 0o600
        if file.name in names and file.mode & ~expected & 0o777:
            yield f"{file.path} has mode {file.mode & 0o777:04o}, expected {expected:04o}"


def writable(inventory: Inventory) -> Violations:
    """Find files and folders that every account can change."""
    private = {file.name for file in inventory.private_keys()} | {"private"}
    for file in inventory.files:
        if file.mode & 0o002 and file.name not in private:
            yield f"{file.path} is writable by every account (mode {file.mode & 0o777:04o})"


def private_kept(inventory: Inventory) -> Violations:
    """Find private keys whose public key no longer verifies."""
    live = {key.kid for key in inventory.live_keys()}
    ended = history.ended(inventory.history.events, inventory.now)
    recorded = {event.kid for event in inventory.history.events}
    present = {PurePosixPath(file.name).stem for file in inventory.files if file.name.startswith("public/")}
    for file in inventory.private_keys():
        kid = file.path.stem
        found = f"{file.path} belongs to no key that verifies"
        if kid in inventory.keyring.keys or kid in ended - present:
            if kid not in live:
                yield found
        elif kid not in recorded | present:  # otherwise the public file is to be restored, which other rules report
            remediation = (
                f"its public key may be on another branch: git log --all -- '*{kid}.json'; if it is on none, delete "
                f"{file.path}"
            )
            yield Violation(found, remediation)


def private_missing(inventory: Inventory, *, imported: bool = False) -> Violations:
    """Find keys, those made here or those `imported`, that cannot sign where others can."""
    held = {file.path.stem for file in inventory.private_keys()}
    elsewhere = history.imported(inventory.history.events)
    for key in inventory.keys_in(KeyState.CURRENT, KeyState.PENDING) if held else ():
        if key.kid not in held and (key.kid in elsewhere) is imported:
            when, instead = "now", "or replace it: verifier keys revoke --replace --reason '...'"
            if key.nbf > inventory.now:
                when, instead = f"from {utc(key.nbf)}", "or, before the switch: verifier keys cancel"
            path = f"{inventory.folder}/private/{key.kid}.pem"
            if imported:
                yield f"{path} is not here: only a KMS, an HSM or another machine signs {when}"
            else:
                yield Violation(
                    f"{path} is missing: no token can be issued {when}",
                    f"copy the file here with mode 0600, {instead} --kid {key.kid[:8]}",
                )


def weak_secrets(inventory: Inventory) -> Violations:
    """Find secrets that are short, and entries of the file that cannot be used."""
    if inventory.applications is not None:
        yield from inventory.applications.weaknesses()
    yield from inventory.application_problems


def shared_secrets(inventory: Inventory) -> Violations:
    """Find secrets that two applications share, and those that were removed and are in use again."""
    owners: dict[bytes, str] = {}
    removed = {event.sha256: event for event in inventory.history.secrets if event.new == history.REMOVED}
    for application in inventory.applications.by_id.values() if inventory.applications else ():
        for secret in application.secrets:
            other = owners.setdefault(secret.digest, application.id)
            if other != application.id:
                yield f"applications {other} and {application.id} have the same secret"
            if (event := removed.get(secret.digest.hex()[:12])) is not None:
                found = f"application {application.id} has a secret that {event.application} gave up {utc(event.at)}"
                yield Violation(f"{found} ({event.sha256}...)", _REPLACE_SECRET + application.id)


def secrets_agree(inventory: Inventory) -> Violations:
    """Find secrets that no command set, where the history records any."""
    if inventory.applications is None:
        return
    recorded: dict[str, dict[str, str]] = {}  # the state of each secret, by application and digest
    for event in inventory.history.secrets:
        recorded.setdefault(event.application, {})[event.sha256] = event.new
    for application_id in dict.fromkeys([*recorded, *inventory.applications.by_id] if recorded else []):
        digests = {digest for digest, state in recorded.get(application_id, {}).items() if state == "active"}
        application = inventory.applications.by_id.get(application_id)
        held = {secret.digest.hex()[:12] for secret in application.secrets} if application else set()
        for digest in sorted(digests - held):
            yield f"application {application_id} has lost the secret {digest}..., which the history records"
        for digest in sorted(held - digests):
            found = f"application {application_id} has the secret {digest}..., which no command added"
            yield found if application_id in recorded else Violation(found, _REMOVE_APPLICATION + application_id)
