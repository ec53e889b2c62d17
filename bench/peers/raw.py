"""The floor under every verifier: the signature check alone, in a loop, with nothing left to convert."""

import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

KEY: Any = load_pem_public_key(Path(os.environ["PUBLIC"]).read_bytes())
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "ES256": (ec.ECDSA(hashes.SHA256()),),
    "RS256": (padding.PKCS1v15(), hashes.SHA256()),
    "EdDSA": (),
}


def taken_apart(body: str) -> tuple[bytes, bytes]:
    signed, _, text = json.loads(body)["code"].rpartition(".")
    signature = base64.urlsafe_b64decode(text + "==")
    if os.environ["ALG"] == "ES256":
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        signature = encode_dss_signature(r, s)
    return signature, signed.encode()


def main(bodies: str, seconds: float) -> None:
    checks = [taken_apart(line) for line in Path(bodies).read_text().splitlines()]
    arguments = ARGUMENTS[os.environ["ALG"]]
    done, start, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - start < seconds:
        for signature, signed in checks[:1000]:
            KEY.verify(signature, signed, *arguments)
        done += 1000
    cpu = time.process_time() - cpu
    print(json.dumps({"requests": done, "seconds": time.monotonic() - start, "cpu_s": cpu, "errors": 0}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
