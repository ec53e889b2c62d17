"""Signers that never show the key (tests/signers), and the DER they give."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.conftest import APPLICATION_ID, ISSUER
from tests.support import forge
from verifier.core import jwk, rules, tokens
from verifier.core.keyring import Keyring, parse_public_key
from verifier.signing.issuer import raw_signature

FOLDER = Path(__file__).parents[1] / "signers"
# An environment of its own: boto3 and the tools of this suite do not agree about python-dateutil.
PYTHON = FOLDER / ".venv" / "bin" / "python"
SOFTHSM = [Path(lib) / "softhsm" / "libsofthsm2.so" for lib in ("/usr/lib", "/usr/lib64", "/usr/local/lib")]

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SP 800-186 §3.2.1.3
OUT_OF_RANGE = "not a P-256 signature: r or s is not from 1 to the order of the curve less 1"


@pytest.mark.parametrize(
    ("r", "s"),
    [
        pytest.param(1, 1, id="least"),
        pytest.param(N - 1, N - 1, id="most"),
        pytest.param(2**247, 2**240 - 1, id="leading-zeros"),
        pytest.param(2**255, 2**255 + 1, id="high-bit-set"),
        pytest.param(0x7F, 0x80, id="one-byte-each"),
        pytest.param(1, N - 1, id="least-and-most"),
    ],
)
def test_der_becomes_r_and_s_in_32_bytes_each(r: int, s: int):
    raw = raw_signature(encode_dss_signature(r, s))
    assert (len(raw), int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")) == (64, r, s)


@pytest.mark.parametrize(
    ("r", "s"),
    [
        pytest.param(0, 1, id="r-0"),
        pytest.param(1, 0, id="s-0"),
        pytest.param(N, 1, id="r-n"),
        pytest.param(1, N, id="s-n"),
        pytest.param(2**256, 1, id="r-33-bytes"),
        pytest.param(1, 2**383, id="s-of-p384"),
    ],
)
def test_der_of_numbers_that_no_p256_signature_has_is_refused(r: int, s: int):
    with pytest.raises(ValueError, match=f"^{re.escape(OUT_OF_RANGE)}$"):
        raw_signature(encode_dss_signature(r, s))


@pytest.mark.parametrize(
    "der",
    [
        pytest.param("", id="empty"),
        pytest.param("3000", id="no-numbers"),
        pytest.param("3003020101", id="one-number"),
        pytest.param("3009020101020101020101", id="three-numbers"),
        pytest.param("300602010102010100", id="trailing-byte"),
        pytest.param("30070201010201", id="cut-short"),
        pytest.param("30060201ff020101", id="r-negative"),
        pytest.param("3006020101020180", id="s-negative"),
        pytest.param("300702020001020101", id="r-with-a-zero-too-many"),
        pytest.param("30050200020101", id="r-without-bytes"),
        pytest.param("308106020101020101", id="length-not-the-shortest"),
        pytest.param("30800201010201010000", id="length-indefinite"),
        pytest.param("3106020101020101", id="a-set"),
        pytest.param("3006040101020101", id="r-an-octet-string"),
        pytest.param("01" * 64, id="raw-already"),
    ],
)
def test_what_is_not_der_is_refused(der: str):
    data = bytes.fromhex(der)
    with pytest.raises(ValueError, match=rf"^not an ECDSA signature in DER \(found {len(data)} bytes\)$"):
        raw_signature(data)


def test_a_signature_in_der_verifies_once_it_is_raw(pairs: dict[str, forge.Pair]):
    key = pairs["ES256"].key
    algorithm, public = jwk.load(pairs["ES256"].public)
    der = key.sign(b"text", ec.ECDSA(hashes.SHA256()))
    assert not algorithm.pyjwt.verify(b"text", public, der)
    assert algorithm.pyjwt.verify(b"text", public, raw_signature(der))


def _issued(*arguments: Any, **environment: str) -> tuple[dict[str, Any], list[str]]:
    """The public key and the tokens that tests/signers/issue.py prints."""
    if not PYTHON.exists():
        pytest.skip("tests/signers/.venv is not installed: make tests/signers/.venv")
    done = subprocess.run(
        [str(PYTHON), "-m", "tests.signers.issue", *map(str, arguments)],
        cwd=FOLDER.parent.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    return printed["public"], printed["tokens"]


def _accept(public: dict[str, Any], issued: list[str]) -> None:
    now = int(time.time())
    file = json.dumps(public | {"iat": now - 60, "nbf": now - 60}).encode()
    policy = rules.Policy(ISSUER, APPLICATION_ID, Keyring([parse_public_key(f"{public['kid']}.json", file)]), now)
    assert len(issued) == 20
    for token in issued:
        assert tokens.verify(token, policy) == tokens.Player("42", "ann@example.com", "ann")


def test_a_key_in_aws_kms_issues_tokens_that_are_accepted():
    _accept(*_issued("aws_kms"))


def test_a_key_in_an_hsm_issues_tokens_that_are_accepted(tmp_path: Path):
    module = next((path for path in SOFTHSM if path.exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed (Debian: softhsm2)")
    store = tmp_path / "tokens"
    store.mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {store}\nlog.level = ERROR\n")
    init = ["softhsm2-util", "--init-token", "--free", "--label", "game", "--pin", "1234", "--so-pin", "1234"]
    subprocess.run(init, env=os.environ | {"SOFTHSM2_CONF": str(configuration)}, check=True, capture_output=True)
    _accept(*_issued("pkcs11_hsm", module, "game", "1234", SOFTHSM2_CONF=str(configuration)))
