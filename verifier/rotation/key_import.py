"""Public keys of other systems: what a document contains, a verdict per key, and how to convert other formats."""

import base64
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from verifier.core import jwk
from verifier.core.encoding import MAX_FILE_CONTAINERS, loads_object
from verifier.core.keyring import is_date
from verifier.core.times import MAX_TIME
from verifier.errors import KeyFileError
from verifier.rotation.markers import has_conflict_markers

# A block ends at the next five hyphens, because hostile text must not be read again from each of its lines.
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(?:(?!-----)[\s\S])*-----END \1-----")
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


class _Format(NamedTuple):
    """A document that is not read, the command that converts it to one that is ({file} to {out}), and its marks."""

    description: str
    command: str
    label: str = ""  # a part of the label of its PEM blocks
    begins: tuple[bytes, ...] = ()


# With the more particular label first, because some contain another.
_FORMATS = {
    "openssh": _Format("an OpenSSH key", "ssh-keygen -e -m PKCS8 -f {file} > {out}.pem",
                       "OPENSSH", (b"ssh-", b"ecdsa-sha2")),
    "ssh2": _Format("an SSH2 key",
                    "ssh-keygen -i -f {file} > {out}.pub && ssh-keygen -e -m PKCS8 -f {out}.pub > {out}.pem",
                    begins=(b"---- BEGIN SSH2",)),
    "pkcs7": _Format("PKCS#7", "openssl pkcs7 -in {file} -print_certs | openssl x509 -noout -pubkey > {out}.pem",
                     "PKCS7"),
    "pgp": _Format("an OpenPGP key",
                   "gpg --export-ssh-key KEY > {out}.pub && ssh-keygen -e -m PKCS8 -f {out}.pub > {out}.pem", "PGP"),
    "private": _Format("a private key", "openssl pkey -in {file} -pubout -out {out}.pem", "PRIVATE KEY"),
    "request": _Format("a certificate request", "openssl req -in {file} -noout -pubkey > {out}.pem",
                       "CERTIFICATE REQUEST"),
    "certificate": _Format("a certificate", "openssl x509 -in {file} -noout -pubkey > {out}.pem", "CERTIFICATE"),
    "parameters": _Format("curve parameters without a key", "openssl pkey -in PRIVATE.pem -pubout -out {out}.pem",
                          "PARAMETERS"),
    "escaped": _Format("PEM with \\n in place of line breaks", "printf '%b\\n' \"$(cat {file})\" > {out}.pem"),
    "utf-16": _Format("UTF-16", "iconv -f UTF-16 -t UTF-8 {file} > {out}.txt"),
    "der": _Format("DER, not PEM", "openssl pkey -pubin -inform DER -in {file} -out {out}.pem"),
    "der-certificate": _Format("a certificate in DER",
                               "openssl x509 -inform DER -in {file} -noout -pubkey > {out}.pem"),
    "der-private": _Format("a private key in DER", "openssl pkey -inform DER -in {file} -pubout -out {out}.pem"),
    "pkcs12": _Format("PKCS#12",
                      "openssl pkcs12 -in {file} -nokeys -clcerts | openssl x509 -noout -pubkey > {out}.pem"),
    "jks": _Format("a Java key store",
                   "keytool -exportcert -rfc -keystore {file} -alias NAME | openssl x509 -noout -pubkey > {out}.pem",
                   begins=(b"\xfe\xed\xfe\xed",)),
    "private-jwk": _Format("a private key", "jq 'del(.d,.p,.q,.dp,.dq,.qi,.oth,.k, "
                           '.keys[]?["d","p","q","dp","dq","qi"])\' {file} > {out}.json'),
    "azure": _Format("a response of Azure Key Vault",
                     "az keyvault key download --vault-name VAULT --name KEY --encoding PEM --file {out}.pem"),
    "aws": _Format("a response of AWS KMS (GetPublicKey)",
                   "jq -r .PublicKey {file} | base64 -d | openssl pkey -pubin -inform DER -out {out}.pem"),
    "gcp": _Format("a response of Google Cloud KMS", "jq -r .pem {file} > {out}.pem"),
    "vault": _Format("a response of HashiCorp Vault",
                     "jq -r '.data.keys[.data.latest_version|tostring].public_key' {file} > {out}.pem"),
    "vault-ed25519": _Format("a response of HashiCorp Vault",
                             'jq \'{kty: "OKP", crv: "Ed25519", x: (.data.keys[.data.latest_version|tostring]'
                             '.public_key | gsub("[+]"; "-") | gsub("/"; "_") | rtrimstr("="))}\' {file} > {out}.json'),
}  # fmt: skip
_PKCS12 = re.compile(rb"\A\x30(?:[\x00-\x7f]|\x81.|\x82..|\x83...)\x02\x01\x03", re.DOTALL)  # RFC 7292 §4: version 3
# Of the keys that can be used here, as AWS KMS (SigningAlgorithms) and Google Cloud KMS (algorithm) name them.
_SERVICE_ALGORITHMS = re.compile(
    r"ECDSA_SHA_256|RSASSA_PKCS1_V1_5_SHA_256|ED25519_SHA_512|EC_SIGN_P256_SHA256|EC_SIGN_ED25519|RSA_SIGN_PKCS1_\d+_SHA256"
)


def read_document(data: bytes, name: str) -> list[Verdict]:
    """Return a verdict for each key of a PEM file, a JWK or a JWKS; `name` is that of the file.

    The kid becomes the thumbprint; "nbf" and "exp" are kept.

    Raises:
        KeyFileError: the document is of another kind; the hint is the command that converts it.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if has_conflict_markers(data):
        raise KeyFileError(f"{name}: has conflict markers", hint="resolve the merge, then import the file")
    # JSON first, because the responses of key services contain PEM in a string.
    pem = data.lstrip()[:1] != b"{" and _PEM_BEGIN.search(data)
    verdicts = _read_pem(data, name) if pem else _read_json(data, name)
    return _without_repetitions(verdicts)


def _other(kind: str, name: str) -> KeyFileError:
    found = _FORMATS[kind]
    secret = "; a private key must not leave the machine that signs" if "private" in kind else ""
    file = "'" + name.replace("'", "'\\''") + "'" if re.search(r"[^\w./-]", name) else name
    # A name that no private key is likely to have, and another one than that of the file that is read.
    command = found.command.replace("{out}", "public-key" if PurePath(name).stem != "public-key" else "public-key-2")
    return KeyFileError(
        f"{name}: is {found.description} (expected a public key as PEM, JWK or JWKS){secret}",
        hint=f"convert it: {command.replace('{file}', file if name != '-' else 'FILE')}",
    )


def _read_pem(data: bytes, name: str) -> list[Verdict]:
    if b"\\n" in data:
        raise _other("escaped", name)
    blocks = [(match[1].decode(), match[0]) for match in _PEM.finditer(data)]
    if len(blocks) != len(_PEM_BEGIN.findall(data)):
        raise KeyFileError(f"{name}: a PEM block is not complete (BEGIN without END)", hint="copy the whole block")
    for kind, found in _FORMATS.items():
        if found.label and any(found.label in label for label, _ in blocks):
            raise _other(kind, name)
    return [_read_block(position, label, pem) for position, (label, pem) in enumerate(blocks, start=1)]


def _read_block(position: int, label: str, pem: bytes) -> Verdict:
    try:
        key = load_pem_public_key(pem)
        if _is_rsa_pss(pem):
            raise KeyFileError("an RSA-PSS key (PS256) cannot be used for RS256")
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
    for kind, found in _FORMATS.items():
        if data.startswith(found.begins):
            raise _other(kind, name)
    if data[:1] == b"\x30":
        raise _other(_kind_of_der(data), name)


def _kind_of_der(data: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import load_der_private_key
    from cryptography.x509 import load_der_x509_certificate

    for kind, load in (
        ("der-certificate", lambda: load_der_x509_certificate(data)),
        ("der-private", lambda: load_der_private_key(data, None)),
    ):
        with contextlib.suppress(TypeError, ValueError, UnsupportedAlgorithm):
            load()
            return kind
    return "pkcs12" if _PKCS12.match(data) else "der"


def _require_keys(document: Mapping[str, Any], name: str) -> None:
    """Recognise the responses of key services, which wrap the key."""
    if isinstance(document.get("key"), dict) or str(document.get("kty", "")).endswith("-HSM"):
        raise _other("azure", name)
    if isinstance(document.get("PublicKey"), str):
        found = document.get("SigningAlgorithms", document.get("EncryptionAlgorithms", []))
        _require_service_algorithm(found, name)
        raise _other("aws", name)
    if isinstance(document.get("pem"), str) or "pemCrc32c" in document:
        _require_service_algorithm([document["algorithm"]] if "algorithm" in document else [], name)
        raise _other("gcp", name)
    data = document.get("data")
    if isinstance(data, dict):
        raise _other("vault-ed25519" if data.get("type") == "ed25519" else "vault", name)
    if not {"kty", "keys"} & document.keys():
        raise KeyFileError(
            f"{name}: is JSON, but neither a JWK (no kty) nor a JWKS (no keys)",
            hint="if it contains PEM, save that; if it names a jwks_uri, save the document there",
        )


def _require_service_algorithm(found: object, name: str) -> None:
    """Refuse a key that its service uses otherwise, because PEM does not say so."""
    if found and not (isinstance(found, list) and any(_SERVICE_ALGORITHMS.fullmatch(str(each)) for each in found)):
        raise KeyFileError(
            f"{name}: the key is not for ES256, EdDSA or RS256 (found {found})", hint="make a key for one of these"
        )


def _read_jwk(position: int, members: Mapping[str, Any]) -> Verdict:
    named, operations = members.get("kid"), members.get("key_ops")
    kid = named if isinstance(named, str) else ""
    if members.get("use", "sig") != "sig":
        return Verdict(position, kid, problem="is not for signatures (use is not sig): skipped", skipped=True)
    if "key_ops" in members and (not isinstance(operations, list) or "verify" not in operations):
        return Verdict(position, kid, problem="is not for signatures (key_ops lacks verify): skipped", skipped=True)
    try:
        if "revoked" in members:
            raise KeyFileError("is revoked")
        _, key = jwk.load({"alg": _ALG_BY_KTY.get(str(members.get("kty")))} | dict(members))
        found = jwk.dump(key)
        kid = found["kid"]
        dates = {name: members[name] for name in ("nbf", "exp") if name in members}
        for name, value in dates.items():
            if not is_date(value):
                raise KeyFileError(f"{name} is not a whole number of seconds since 1970")
        if dates.get("exp", MAX_TIME) <= dates.get("nbf", 0):
            raise KeyFileError("exp is not after nbf")
    except KeyFileError as exc:
        return Verdict(position, kid, problem=str(exc))
    return Verdict(position, kid, found | dates)


def _without_repetitions(verdicts: list[Verdict]) -> list[Verdict]:
    first: dict[str, int] = {}
    checked = []
    for verdict in verdicts:
        if verdict.members is not None and first.setdefault(verdict.kid, verdict.position) != verdict.position:
            verdict = replace(verdict, members=None, problem=f"is the same key as key {first[verdict.kid]}")
        checked.append(verdict)
    return checked
