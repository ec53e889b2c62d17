"""Contexts, tokens, certificates, and what a run against an endpoint finds."""

import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conftest import APPLICATION_ID, ISSUER, SECRET
from tests.support.forge import Pair
from verifier.conformance import runner
from verifier.conformance.forge import Context, Key
from verifier.conformance.messages import Url

PRIVATE = ("canary-player", "canary@example.com", "canary-name")  # of the token given with --token


def pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def dated(pair: Pair) -> bytes:
    return json.dumps(pair.public | {"iat": 1_700_000_000, "nbf": 1_700_000_000}).encode()


def context(pair: Pair, **changes: Any) -> Context:
    return Context(APPLICATION_ID, **{"secret": SECRET, "key": Key(pair.key, pair.alg, pair.kid, ISSUER)} | changes)


def valid_token(pair: Pair, **changes: Any) -> str:
    now = int(time.time())
    player = dict(zip(("sub", "email", "username"), PRIVATE, strict=True))
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "iat": now, "exp": now + 120} | player | changes
    key = Key(pair.key, pair.alg, pair.kid, ISSUER)
    header = {"alg": pair.alg, "kid": pair.kid, "typ": "at+jwt"}
    return key.token(json.dumps(header).encode(), json.dumps(claims).encode())


def failures(url: str, context: Context, *only: str, timeout_s: float = 5) -> dict[str, set[str]]:
    """The ids that fail, for each level."""
    found: dict[str, set[str]] = {"must": set(), "should": set()}
    target = Url.parse(url)
    for result in runner.run(target, context, runner.select(only), timeout_s):
        if result.outcome == runner.FAIL:
            found[result.level].add(result.item.id)
    return found


NOTHING: dict[str, set[str]] = {"must": set(), "should": set()}


def cause_of(url: str, pair: Pair, timeout_s: float = 5, **changes: Any) -> str:
    """The cause of the first failure, after which no other request was sent."""
    target = Url.parse(url, allow_http=True)
    first, *rest = runner.run(target, context(pair, **changes), runner.select(()), timeout_s)
    assert first.outcome == "fail"
    assert {r.outcome for r in rest} == {"skip"}
    return "; ".join(first.cause[:2])


def certificate(folder: Path, name: str = "localhost", days: float = 90) -> tuple[ssl.SSLContext, Path]:
    """A self-signed certificate, as what a server serves and as what a client trusts."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=100)).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(identifier, critical=False).add_extension(authority, critical=False)
    path = folder / "certificate.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, folder / "key.pem")
    return context, path
