"""Issues tokens with a signer of this folder and a key made for the run; runs in the environment of requirements.lock.

    python -m tests.signers.issue aws_kms
    python -m tests.signers.issue pkcs11_hsm MODULE TOKEN_LABEL PIN

Prints JSON: the public key as a JWK, and tokens.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.signers.aws_kms import AwsKmsSigner
from tests.signers.pkcs11_hsm import Pkcs11Signer
from verifier import Signer, TokenIssuer
from verifier.core import jwk

Made = tuple[Signer, dict[str, Any]]  # and its public key, as a JWK


@contextmanager
def aws_kms() -> Iterator[Made]:
    """A key in moto's server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        kms = boto3.client(
            "kms",
            endpoint_url=f"http://{host}:{port}",
            region_name="eu-central-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        key_id = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        public = jwk.dump(load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"]))
        yield AwsKmsSigner(kms, key_id, public["kid"]), public
    finally:
        server.stop()


@contextmanager
def pkcs11_hsm(module: str, token_label: str, pin: str) -> Iterator[Made]:
    """A key in the token of a PKCS#11 module."""
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    token = pkcs11.lib(module).get_token(token_label=token_label)
    with token.open(user_pin=pin, rw=True) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        key, _ = parameters.generate_keypair(label="sign-in", store=True)
        public = jwk.dump(load_der_public_key(encode_ec_public_key(key)))
        yield Pkcs11Signer(session, "sign-in", public["kid"]), public


def main(kind: str, *arguments: str) -> None:
    """Issue 20 tokens: DER differs in length from one signature to the next."""
    signers: dict[str, Any] = {"aws_kms": aws_kms, "pkcs11_hsm": pkcs11_hsm}
    with signers[kind](*arguments) as (signer, public):
        issuer = TokenIssuer(signer, issuer="https://game.example", application_id="application-1")
        tokens = [issuer.issue("42", email="ann@example.com", username="ann") for _ in range(20)]
        print(json.dumps({"public": public, "tokens": tokens}))


if __name__ == "__main__":
    main(*sys.argv[1:])
