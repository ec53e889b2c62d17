"""Public keys of other systems: what a document contains, a verdict per key, and how to convert other formats."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from verifier.core import jwk
from verifier.core.encoding import MAX_FILE_CONTAINERS, loads_object
from verifier.core.keyring import is_date
from verifier.core.times import MAX_TIME
from verifier.errors import KeyFileError

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[\s\S]*?-----END \1-----")
_PEM_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_RSA_PSS = bytes.fromhex("06092a864886f70d01010a")  # id-RSASSA-PSS (RFC 4055 §3.1)
_ALG_BY_KTY = {"EC": "ES256", "OKP": "EdDSA", "RSA": "RS256"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one key of a document."""

    position: int  # from 1
    kid: str  # its thumbprint, or else the name that the document gives it; may be empty
    members: Mapping[str, Any] | None = field(default=None, repr=False)  # as `jwk.dump` returns it; None: not taken
    problem: str = ""
    skipped: bool = False  # not a key for signatures: it does not hinder the others

    def __str__(self) -> str:
        name = f"key {self.position}" + (f" ({self.kid})" if self.kid else "")
        return f"{name}: {self.problem or 'ok'}"


@dataclass(frozen=True, slots=True)
class _Format:
    """A document that is not read, and the command that converts it to one that is."""

    name: str
    command: str  # with {file}


_FORMATS = {
    "azure": _Format(
        "a response of Azure Key Vault",
        "az keyvault key download --vault-name VAULT --name KEY --encoding PEM --file key.pem",
    ),
    "aws": _Format(
        "a response of AWS KMS (GetPublicKey)",
        "jq -r .PublicKey {file} | base64 -d | openssl pkey -pubin -inform DER -out key.pem",
    ),
    "gcp": _Format("a response of Google Cloud KMS", "jq -r .pem {file} > key.pem"),
    "vault": _Format(
        "a response of HashiCorp Vault",
        "jq -r '.data.keys[.data.latest_version|tostring].public_key' {file} > key.pem",
    ),
    "der": _Format("DER, not PEM", "openssl pkey -pubin -inform DER -in {file} -out key.pem"),
    "der-certificate": _Format("a certificate in DER", "openssl x509 -inform DER -in {file} -noout -pubkey > key.pem"),
    "der-private": _Format("a private key in DER", "openssl pkey -inform DER -in {file} -pubout -out key.pem"),
    "certificate": _Format("a certificate", "openssl x509 -in {file} -noout -pubkey > key.pem"),
    "private": _Format("a private key", "openssl pkey -in {file} -pubout -out key.pem"),
    "private-jwk": _Format(
        "a private key",
        'jq \'del(.d,.p,.q,.dp,.dq,.qi,.oth,.k, .keys[]?["d","p","q","dp","dq","qi"])\' {file} > key.json',
    ),
    "openssh": _Format("an OpenSSH key", "ssh-keygen -e -m PKCS8 -f {file} > key.pem"),
    "utf-16": _Format("UTF-16", "iconv -f UTF-16 -t UTF-8 {file} > key.txt"),
    "request": _Format("a certificate request", "openssl req -in {file} -noout -pubkey > key.pem"),
    "parameters": _Format("curve parameters without a key", "openssl pkey -in PRIVATE.pem -pubout -out key.pem"),
    "pgp": _Format("an OpenPGP key", "gpg --export-ssh-key KEY > key.pub; ssh-keygen -e -m PKCS8 -f key.pub > key.pem"),
}


def read_document(data: bytes, name: str) -> list[Verdict]:
    """Return a verdict for each key of a PEM file, a JWK or a JWKS; `name` is that of the file.

    The kid becomes the thumbprint; "nbf" and "exp" are kept.

    Raises:
        KeyFileError: the document is of another kind; the hint is the command that converts it.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    # JSON first, because the responses of key services contain PEM in a string.
    pem = data.lstrip()[:1] != b"{" and _PEM_BEGIN.search(data)
    verdicts = _read_pem(data, name) if pem else _read_json(data, name)
    return _without_repetitions(verdicts)


def _other(kind: str, name: str) -> KeyFileError:
    found = _FORMATS[kind]
    secret = "; a private key must not leave the machine that signs" if "private" in kind else ""
    file = "'" + name.replace("'", "'\\''") + "'" if re.search(r"[^\w./-]", name) else name
    command = found.command.replace("{file}", file if name != "-" else "FILE")
    return KeyFileError(
        f"{name}: is {found.name} (expected a public key as PEM, JWK or JWKS){secret}",
        hint=f"convert it: {command}",
    )


def _read_pem(data: bytes, name: str) -> list[Verdict]:
    blocks = [(match[1].decode(), match[0]) for match in _PEM.finditer(data)]
    if len(blocks) != len(_PEM_BEGIN.findall(data)):
        raise KeyFileError(f"{name}: a PEM block is not complete (BEGIN without END)", hint="copy the whole block")
    kinds: list[tuple[Callable[[str], bool], str]] = [
        (lambda label: "OPENSSH" in label or "SSH2" in label, "openssh"),
        (lambda label: "PGP" in label, "pgp"),
        (lambda label: "PRIVATE KEY" in label, "private"),
        (lambda label: "CERTIFICATE REQUEST" in label, "request"),
        (lambda label: "CERTIFICATE" in label, "certificate"),
        (lambda label: "PARAMETERS" in label, "parameters"),
    ]
    for matches, kind in kinds:
        if any(matches(label) for label, _ in blocks):
            raise _other(kind, name)
    return [_read_block(position, label, pem) for position, (label, pem) in enumerate(blocks, start=1)]


def _read_block(position: int, label: str, pem: bytes) -> Verdict:
    try:
        key = load_pem_public_key(pem)
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if _is_rsa_pss(pem) or _RSA_PSS in der[:32]:
            return Verdict(position, "", problem="an RSA-PSS key (PS256) cannot be used for RS256")
        members = jwk.dump(key)
    except (ValueError, UnsupportedAlgorithm):
        return Verdict(position, "", problem=f"not a valid public key in PEM (found {label})")
    except KeyFileError as exc:
        return Verdict(position, "", problem=str(exc))
    return Verdict(position, members["kid"], members)


def _is_rsa_pss(pem: bytes) -> bool:
    # The library drops the algorithm identifier, so the encoding itself is examined.
    body = b"".join(line for line in pem.splitlines() if not line.startswith(b"-----") and b":" not in line)
    return _RSA_PSS in base64.b64decode(body)[:40]


def _read_json(data: bytes, name: str) -> list[Verdict]:
    _require_text(data, name)
    try:
        document = loads_object(data, max_containers=MAX_FILE_CONTAINERS)
    except ValueError as exc:
        raise KeyFileError(
            f"{name}: neither PEM nor JWK nor JWKS ({exc})", hint="expected -----BEGIN PUBLIC KEY-----, or JSON"
        ) from exc
    _require_keys(document, name)
    found = document.get("keys", [document])
    if not isinstance(found, list) or not found or not all(isinstance(members, dict) for members in found):
        raise KeyFileError(f"{name}: keys is not a list of keys")
    if any(jwk.PRIVATE_MEMBERS & members.keys() and members.get("kty") != "oct" for members in found):
        raise _other("private-jwk", name)
    return [_read_jwk(position, members) for position, members in enumerate(found, start=1)]


def _require_text(data: bytes, name: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in data[:4] and data[:1] in b"\0{"):
        raise _other("utf-16", name)
    if data.startswith((b"ssh-", b"ecdsa-sha2", b"---- BEGIN SSH2")):
        raise _other("openssh", name)
    if data[:1] == b"\x30":
        raise _other(_kind_of_der(data), name)


def _kind_of_der(data: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
    from cryptography.x509 import load_der_x509_certificate

    for kind, load in (
        ("der", lambda: load_der_public_key(data)),
        ("der-certificate", lambda: load_der_x509_certificate(data)),
        ("der-private", lambda: load_der_private_key(data, None)),
    ):
        try:
            load()
        except (TypeError, ValueError, UnsupportedAlgorithm):
            continue
        return kind
    return "der"


def _require_keys(document: Mapping[str, Any], name: str) -> None:
    """Recognise the responses of key services, which wrap the key."""
    if isinstance(document.get("key"), dict) or str(document.get("kty", "")).endswith("-HSM"):
        raise _other("azure", name)
    if isinstance(document.get("PublicKey"), str):
        raise _other("aws", name)
    if isinstance(document.get("pem"), str) or "pemCrc32c" in document:
        raise _other("gcp", name)
    if isinstance(document.get("data"), dict):
        raise _other("vault", name)


def _read_jwk(position: int, members: Mapping[str, Any]) -> Verdict:
    named = members.get("kid")
    kid = named if isinstance(named, str) else ""
    operations = members.get("key_ops")
    if members.get("use", "sig") != "sig":
        return Verdict(position, kid, problem="is not for signatures (use is not sig): skipped", skipped=True)
    if "key_ops" in members and (not isinstance(operations, list) or "verify" not in operations):
        return Verdict(position, kid, problem="is not for signatures (key_ops lacks verify): skipped", skipped=True)
    if "revoked" in members:
        return Verdict(position, kid, problem="is revoked")
    try:
        _, key = jwk.load({"alg": _ALG_BY_KTY.get(str(members.get("kty")))} | dict(members))
    except KeyFileError as exc:
        return Verdict(position, kid, problem=str(exc))
    dated = jwk.dump(key) | {date: members[date] for date in ("nbf", "exp") if date in members}
    wrong = [name for name in ("nbf", "exp") if name in dated and not is_date(dated[name])]
    if wrong:
        return Verdict(position, dated["kid"], problem=f"{wrong[0]} is not a whole number of seconds since 1970")
    if dated.get("exp", MAX_TIME) <= dated.get("nbf", 0):
        return Verdict(position, dated["kid"], problem="exp is not after nbf")
    return Verdict(position, dated["kid"], dated)


def _without_repetitions(verdicts: list[Verdict]) -> list[Verdict]:
    first: dict[str, int] = {}
    checked = []
    for verdict in verdicts:
        if verdict.members is not None and verdict.kid in first:
            problem = f"is the same key as key {first[verdict.kid]}"
            verdict = Verdict(verdict.position, verdict.kid, problem=problem)
        elif verdict.members is not None:
            first[verdict.kid] = verdict.position
        checked.append(verdict)
    return checked
