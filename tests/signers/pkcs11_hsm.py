"""A signer whose key never leaves an HSM: a P-256 key under one label, through PKCS#11."""

import hashlib
from typing import Any

from pkcs11 import Mechanism, ObjectClass


class Pkcs11Signer:
    """Signs in an open session of python-pkcs11."""

    alg = "ES256"

    def __init__(self, session: Any, label: str, kid: str) -> None:
        self.key, self.kid = session.get_key(ObjectClass.PRIVATE_KEY, label=label), kid

    def sign(self, signing_input: bytes) -> bytes:
        digest = hashlib.sha256(signing_input).digest()
        return bytes(self.key.sign(digest, mechanism=Mechanism.ECDSA))  # raw r and s: PKCS#11 does not use DER
