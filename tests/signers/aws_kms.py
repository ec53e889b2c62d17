"""A signer whose key never leaves AWS KMS: an asymmetric key of spec ECC_NIST_P256, for signing."""

from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key

from verifier import raw_signature
from verifier.core import jwk


class AwsKmsSigner:
    """Signs with `boto3.client("kms")`. KMS takes at most 4,096 bytes this way."""

    alg = "ES256"

    def __init__(self, kms: Any, key_id: str) -> None:
        self.kms, self.key_id = kms, key_id
        self.public = jwk.dump(load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"]))
        self.kid = self.public["kid"]

    def sign(self, signing_input: bytes) -> bytes:
        answer = self.kms.sign(
            KeyId=self.key_id, Message=signing_input, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256"
        )
        return raw_signature(answer["Signature"])  # KMS gives DER
