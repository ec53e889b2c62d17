"""What the two Python peers share: the settings, the secret, and PyJWT's `decode` with every check it offers."""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.serialization import load_pem_public_key

ISSUER, ALG = os.environ["ISSUER"], os.environ["ALG"]
SECRETS = {os.environ["APPLICATION_ID"]: hashlib.sha256(os.environ["SECRET"].encode()).digest()}
KEYS = {os.environ["KID"]: load_pem_public_key(Path(os.environ["PUBLIC"]).read_bytes())}
MAX_LIFETIME_S = int(os.environ["MAX_LIFETIME"])
OPTIONS = {"require": ["iss", "aud", "sub", "iat", "exp"]}


class Refused(Exception):
    """Answered with 401; `str()` is the code."""


def profile(code: str, secret: str, application_id: str) -> dict[str, Any]:
    """The profile of a good token; raises Refused."""
    digest = hashlib.sha256(secret.encode()).digest()
    if not hmac.compare_digest(digest, SECRETS.get(application_id, b"")):
        raise Refused("invalid_client")
    try:
        header = jwt.get_unverified_header(code)
        if header.get("typ") != "at+jwt":
            raise Refused("invalid_token")
        claims = jwt.decode(
            code,
            KEYS[header["kid"]],
            algorithms=[ALG],
            audience=application_id,
            issuer=ISSUER,
            leeway=30,
            options=OPTIONS,
        )
    except (jwt.InvalidTokenError, KeyError) as exc:
        raise Refused("invalid_token") from exc
    if claims["exp"] - claims["iat"] > MAX_LIFETIME_S:
        raise Refused("invalid_token")
    found = {"_id": claims["sub"], "email": claims.get("email"), "username": claims.get("username")}
    return {name: value for name, value in found.items() if value is not None}


def serve(app: Any) -> None:
    uvicorn.run(
        app,
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
