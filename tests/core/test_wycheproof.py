"""Project Wycheproof's vectors for JWS and JWK. They are not part of this repository: WYCHEPROOF names their folder.

Its signatures are not over tokens of our profile, so they are held against what lies below it: the strict
encoding, the keys and the signature check.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from verifier.core import jwk, tokens
from verifier.core.encoding import is_utf8_encodable
from verifier.core.keyring import parse_public_key
from verifier.errors import InvalidToken, KeyFileError

# Where we answer otherwise than the vectors want, by file and tcId, and why.
DEVIATIONS = {
    ("json_web_key_test", 7): "accepts an RSA key with the ROCA weakness (CVE-2017-15361): faulty smart cards of 2012 "
    "to 2017 make such keys, and recognizing them is the business of whoever makes the key, not of each load",
}


def _vectors() -> list[Any]:
    folder = os.environ.get("WYCHEPROOF")
    if not folder:
        return [pytest.param("", None, None, marks=pytest.mark.skip(reason="WYCHEPROOF names no folder"))]
    return [
        pytest.param(name, group, test, id=f"{name}-{test['tcId']}-{test['comment']}")
        for name in ("json_web_signature_test", "json_web_key_test")
        for group in json.loads((Path(folder) / f"{name}.json").read_text("utf-8"))["testGroups"]
        for test in group["tests"]
    ]


def _keys(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    # "public" is missing where all keys are symmetric.
    found = group.get("public") or group["private"]
    return list(found.get("keys", [found]))


def _holds(members: dict[str, Any], jws: Any) -> bool:
    """Whether a key that we load, under our kid, accepts a signature that we can read."""
    try:
        kid = jwk.thumbprint(members)
        key = parse_public_key(f"{kid}.json", json.dumps(members | {"kid": kid, "iat": 0, "nbf": 0}).encode())
        header, payload, signature = tokens.split_compact(jws)
        tokens.decode_segment(payload, "payload")
        alg = tokens.decode_json_segment(header, "header").get("alg")
        octets = tokens.decode_segment(signature, "signature")
    except (KeyFileError, InvalidToken):
        return False
    return is_utf8_encodable(alg) and alg == key.algorithm.name and key.verify(jws.rpartition(".")[0].encode(), octets)


@pytest.mark.parametrize(("name", "group", "test"), _vectors())
def test_a_signature_of_wycheproof_holds_if_it_is_valid_and_of_our_algorithms(
    name: str, group: Mapping[str, Any], test: Mapping[str, Any]
):
    keys = _keys(group)
    # Everything of other algorithms, valid or not, is refused.
    ours = any(key.get("alg") in jwk.ALGORITHM_NAMES for key in keys)
    expected = ours and test["result"] == "valid"
    if (name, test["tcId"]) in DEVIATIONS:
        expected = not expected
    assert any(_holds(key, test["jws"]) for key in keys) is expected
