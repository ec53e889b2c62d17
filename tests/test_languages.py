"""Tokens minted by other languages' libraries are accepted, and ours by them: tests/languages.

A runtime or library that is not here is a skipped test with its reason.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests import forge
from tests.conftest import APPLICATION_ID, ISSUER
from verifier import tokens
from verifier.encoding import b64url_decode
from verifier.keyring import Keyring, parse_public_key
from verifier.keystore import PrivateKey

FOLDER = Path(__file__).parent / "languages"
# Where Debian's golang-github-golang-jwt-jwt-dev puts it.
GOLANG_JWT = Path("/usr/share/gocode/src/github.com/golang-jwt/jwt")
LANGUAGES = ["node", "go", "java", "php"]
# Java reads its arguments in the encoding of the locale.
ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8", "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "on"}

Run = Callable[..., str]


def _run(*command: Any, cwd: Path = FOLDER) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="session")
def node() -> Run:
    """Runs a script of tests/languages with node."""
    _need("node")
    if not (FOLDER / "node_modules" / "jose").is_dir():
        pytest.skip("jose is not installed (npm ci in tests/languages)")
    return lambda script, *arguments: _run("node", f"{script}.mjs", *arguments)


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Builds a program of tests/languages once, and runs it."""
    _need("go")
    if not GOLANG_JWT.is_dir():
        pytest.skip("golang-jwt is not installed (Debian: golang-github-golang-jwt-jwt-dev)")
    folder = tmp_path_factory.mktemp("go")
    module = "github.com/golang-jwt/jwt/v4"
    (folder / "go.mod").write_text(
        f"module tests\n\ngo 1.16\n\nrequire {module} v4.0.0\n\nreplace {module} => {GOLANG_JWT}\n"
    )

    def run(program: str, *arguments: Any) -> str:
        if not (folder / program).exists():
            shutil.copy(FOLDER / f"{program}.go", folder)
            _run("go", "build", "-o", program, f"{program}.go", cwd=folder)
        return _run(folder / program, *arguments)

    return run


@pytest.fixture(scope="session")
def java() -> Run:
    """Runs the JDK's source launcher."""
    _need("javac")
    # Only the first of the just-in-time compilers: half the time for so short a run.
    return lambda program, *arguments: _run(
        "java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", f"{program.capitalize()}.java", *arguments
    )


@pytest.fixture(scope="session")
def php() -> Run:
    """Runs a script of tests/languages with php."""
    _need("php")
    return lambda script, *arguments: _run("php", f"{script}.php", *arguments)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def now_keyring(pairs: dict[str, forge.Pair]) -> Keyring:
    """Keys that verify now, by the real clock."""
    since = int(time.time()) - 60
    return Keyring(
        parse_public_key(f"{pair.kid}.json", json.dumps(pair.public | {"iat": since, "nbf": since}).encode())
        for pair in pairs.values()
    )


@pytest.fixture
def mint(run: Run, pairs: dict[str, forge.Pair], tmp_path: Path) -> Run:
    """A token of another language for a player."""
    pem = tmp_path / "key.pem"
    pem.write_bytes(pairs["ES256"].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return lambda *player: run("mint", pem, pairs["ES256"].kid, ISSUER, APPLICATION_ID, *player)


@pytest.mark.parametrize("run", LANGUAGES, indirect=True)
@pytest.mark.parametrize(
    "player",
    [
        pytest.param(("42", "ann@example.com", "ann"), id="plain"),
        pytest.param(("0x\\\"'/\n<é>", "änn+x@example.com", "\U0001f600 & ann"), id="characters-that-need-care"),
    ],
)
def test_a_token_of_another_language_gives_its_player(mint: Run, now_keyring: Keyring, player: tuple[str, ...]):
    token = mint(*player)
    policy = tokens.Policy(ISSUER, APPLICATION_ID, now_keyring, int(time.time()))
    assert tokens.verify(token, policy) == tokens.Player(*player)
    assert len(b64url_decode(token.split(".")[2])) == 64


@pytest.mark.parametrize("run", LANGUAGES, indirect=True)
def test_a_token_of_another_language_leaves_out_what_the_player_does_not_share(mint: Run, now_keyring: Keyring):
    token = mint("42")
    policy = tokens.Policy(ISSUER, APPLICATION_ID, now_keyring, int(time.time()))
    assert tokens.verify(token, policy) == tokens.Player("42")
    assert not {"email", "username"} & tokens.parse(token).claims.keys()


@pytest.fixture
def ours(pairs: dict[str, forge.Pair], alg: str) -> str:
    """A token of this package."""
    return tokens.issue(
        tokens.Player("42", "ann@example.com", "ann"),
        PrivateKey(pairs[alg].kid, alg, pairs[alg].key),
        issuer=ISSUER,
        application_id=APPLICATION_ID,
        now=int(time.time()),
    )


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_jose_accepts_our_tokens(node: Run, pairs: dict[str, forge.Pair], alg: str, ours: str, tmp_path: Path):
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [pair.public for pair in pairs.values()]}))
    assert json.loads(node("verify", jwks, ISSUER, APPLICATION_ID, ours)) == tokens.parse(ours).claims


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_golang_jwt_accepts_our_tokens(go: Run, pairs: dict[str, forge.Pair], alg: str, ours: str, tmp_path: Path):
    pem = tmp_path / "public.pem"
    public = pairs[alg].key.public_key()
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert json.loads(go("verify", pem, alg, ours)) == tokens.parse(ours).claims
