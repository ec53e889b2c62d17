"""A signer whose key never leaves AWS KMS: an asymmetric key of spec ECC_NIST_P256, for signing."""

from typing import Any

from verifier import raw_signature


class AwsKmsSigner:
    """Signs with `boto3.client("kms")`. KMS takes at most 4,096 bytes this way."""

    alg = "ES256"

    def __init__(self, kms: Any, key_id: str, kid: str) -> None:
        self.kms, self.key_id, self.kid = kms, key_id, kid

    def sign(self, signing_input: bytes) -> bytes:
        response = self.kms.sign(
            KeyId=self.key_id, Message=signing_input, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256"
        )
        return raw_signature(response["Signature"])  # KMS returns DER
