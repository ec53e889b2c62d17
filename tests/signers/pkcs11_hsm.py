"""A signer whose key never leaves an HSM: a P-256 key pair under one label, through PKCS#11."""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key

from verifier.core import jwk


class Pkcs11Signer:
    """Signs in an open session of python-pkcs11."""

    alg = "ES256"

    def __init__(self, session: Any, label: str) -> None:
        self.key = session.get_key(ObjectClass.PRIVATE_KEY, label=label)
        public = session.get_key(ObjectClass.PUBLIC_KEY, label=label)
        self.public = jwk.dump(load_der_public_key(encode_ec_public_key(public)))
        self.kid = self.public["kid"]

    def sign(self, signing_input: bytes) -> bytes:
        digest = hashlib.sha256(signing_input).digest()
        return bytes(self.key.sign(digest, mechanism=Mechanism.ECDSA))  # raw r and s: PKCS#11 does not use DER
