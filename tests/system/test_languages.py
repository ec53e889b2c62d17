"""Recipes of docs/issuing: each issues tokens that the verifier accepts, and two libraries accept the verifier's.

`make languages` builds them; what cannot be had here is skipped with its reason.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.conftest import APPLICATION_ID, ISSUER
from tests.languages import build, recipes
from tests.support import forge
from verifier.core import rules, tokens
from verifier.core.encoding import b64url_decode
from verifier.core.keyring import Keyring, parse_public_key
from verifier.signing.issuer import issue as issue_token
from verifier.signing.private_key import PrivateKey

RECIPES = [recipe for language in recipes.LANGUAGES for recipe in recipes.recipes(language)]
PRINTED = [recipe for recipe in RECIPES if recipe.alg == "ES256"]
LIFETIME_S = 120


def by_name(recipe: recipes.Recipe) -> str:
    return f"{recipe.file}-{recipe.alg}"


def built(language: str) -> None:
    """Skip, with the reason, where a language is not built; fail where its build failed or is out of date."""
    state = build.state(language)
    if not state:
        pytest.skip(f"{language} is not built (make languages)")
    assert state["digest"] == build.digest(language), f"{language} changed since it was built (make languages)"
    assert "failed" not in state, state["failed"]
    if "missing" in state:
        pytest.skip(f"{language}: {state['missing']}")


def run(*command: Any, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=build.ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def now_keyring(pairs: dict[str, forge.Pair]) -> Keyring:
    """Keys that verify now, by the real clock."""
    since = int(time.time()) - 60
    return Keyring(
        parse_public_key(f"{pair.kid}.json", json.dumps(pair.public | {"iat": since, "nbf": since}).encode())
        for pair in pairs.values()
    )


@pytest.fixture
def issue(pairs: dict[str, forge.Pair], tmp_path: Path) -> Callable[..., str]:
    """Run a recipe for a player, with the settings of a backend."""

    def issue(recipe: recipes.Recipe, *player: str) -> str:
        built(recipe.language)
        pair = pairs[recipe.alg]
        pem = tmp_path / "key.pem"
        pem.write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        settings = {"KEY_FILE": str(pem), "KEY_ID": pair.kid, "ISSUER": ISSUER, "APPLICATION_ID": APPLICATION_ID}
        return run(*build.command(recipe), *player, environment=settings)

    return issue


@pytest.fixture
def verify(now_keyring: Keyring) -> Callable[[str], tokens.Player]:
    """Verify a token as the server does."""

    def verify(token: str) -> tokens.Player:
        return tokens.verify(token, rules.Policy(ISSUER, APPLICATION_ID, now_keyring, int(time.time())))

    return verify


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_a_recipe_issues_a_token_for_any_text(recipe, issue, verify):
    player = ("0x\\\"'/\n<é>", "änn+x@exämple.com", "\U0001f600 & ann")
    token = issue(recipe, *player)
    assert verify(token) == tokens.Player(*player)
    parsed = forge.parse(token)
    assert parsed.header["typ"] == "at+jwt"
    assert parsed.claims["exp"] - parsed.claims["iat"] == LIFETIME_S


@pytest.mark.parametrize("recipe", PRINTED, ids=by_name)
def test_a_recipe_omits_what_the_player_does_not_share(recipe, issue, verify):
    token = issue(recipe, "42")
    assert verify(token) == tokens.Player("42")
    assert not {"email", "username"} & forge.parse(token).claims.keys()
    assert len(b64url_decode(token.split(".")[2])) == 64


def test_every_recipe_was_run():
    """List in one place what was not run."""
    missing = {language: build.state(language).get("missing", "") for language in recipes.LANGUAGES}
    missing |= {language: "not built (make languages)" for language in missing if not build.state(language)}
    if any(missing.values()):
        pytest.skip("not run: " + "; ".join(f"{language}: {reason}" for language, reason in missing.items() if reason))


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Build into an empty folder, with only the programs of that folder."""
    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setitem(build.ENVIRONMENT, "PATH", str(tmp_path))
    return tmp_path


def test_a_missing_toolchain_is_a_skip_with_its_reason(elsewhere):
    build.build("ruby")
    with pytest.raises(pytest.skip.Exception, match=r"^ruby: ruby is not installed$"):
        built("ruby")


def test_a_toolchain_that_is_too_old_is_a_skip_with_its_reason(elsewhere):
    for program in ("cargo", "cc"):
        (elsewhere / program).write_text("#!/bin/sh\necho cargo 1.65.0\n")
        (elsewhere / program).chmod(0o755)
    build.build("rust")
    with pytest.raises(pytest.skip.Exception, match=r"^rust: cargo 1\.65\.0 is older than 1\.88$"):
        built("rust")


def test_a_recipe_that_does_not_compile_is_a_failure(elsewhere):
    compiler = elsewhere / "g++"
    compiler.write_text(
        '#!/bin/sh\ntest "$1" = -dumpfullversion && echo 12.2.0 && exit\necho "issue.cpp: error"; exit 1\n'
    )
    compiler.chmod(0o755)
    build.build("cpp")
    with pytest.raises(AssertionError, match=r"issue\.cpp: error"):
        built("cpp")


def test_a_recipe_that_changed_since_it_was_built_is_a_failure(elsewhere):
    (elsewhere / "php.json").write_text('{"digest": "of another page"}')
    with pytest.raises(AssertionError, match=r"^php changed since it was built \(make languages\)"):
        built("php")


def locked(language: str) -> dict[str, str]:
    """The versions that a language's lock names."""
    folder = build.FOLDER / language
    match language:
        case "node":
            return dict(json.loads((folder / "package.json").read_text())["dependencies"])
        case "go":
            return dict(re.findall(r"(?m)^require (\S+) v(\S+)$", (folder / "go.mod").read_text()))
        case "java":
            text = (folder / "pom.xml").read_text()
            pattern = r"<groupId>(.+?)</groupId><artifactId>(.+?)</artifactId><version>(.+?)</version>"
            found = re.findall(pattern, text)
            return {name: version for group, artifact, version in found for name in (artifact, f"{group}:{artifact}")}
        case "rust":
            return dict(re.findall(r'(?m)^(\S+) = \{ version = "=(.+?)"', (folder / "Cargo.toml").read_text()))
        case _:
            text = (folder / "requirements.lock").read_text()
            return dict(re.findall(r"(?m)^(\S+)==(\S+)", text))


@pytest.mark.parametrize("language", ["node", "go", "java", "rust", "python"])
def test_a_page_names_the_versions_of_the_lock(language):
    found = locked(language)
    named = recipes.versions(language)
    assert named
    assert {name: found.get(name, found.get(name.lower())) for name in named} == named


def test_locks_name_no_registry_and_a_digest_of_everything():
    node = json.loads((build.FOLDER / "node" / "package-lock.json").read_text())["packages"]
    assert all("integrity" in package and "resolved" not in package for name, package in node.items() if name)
    crates = (build.FOLDER / "rust" / "crates.lock").read_text()
    assert "://" not in crates
    assert crates.count('source = "crates.io"\nchecksum = "') == crates.count("[[package]]") - 1  # all but the recipes


@pytest.mark.parametrize("language", recipes.LANGUAGES)
def test_every_block_of_a_page_is_run(language):
    blocks = re.findall(r"(?m)^```(\w.*)$", recipes.page(language).read_text("utf-8"))
    names = {recipe.file for recipe in RECIPES if recipe.language == language}
    assert len(blocks) == len(names)
    assert {name for block in blocks for name in re.findall(r'title="(.+)"', block)} == names


LIBJWT = r"""
#include <jwt.h>
#include <stdio.h>
int main(void) {
    jwt_t *token;
    if (jwt_new(&token) || jwt_add_header(token, "typ", "at+jwt")) return 1;
    if (jwt_set_alg(token, JWT_ALG_HS256, "key", 3)) return 1;
    return puts(jwt_encode_str(token)) < 0;
}
"""
MOJO_JWT = 'print Mojo::JWT->new(claims => {}, header => {typ => "at+jwt"}, secret => "key")->encode'


def test_libjwt_1_cannot_set_typ(tmp_path: Path):
    if shutil.which("cc") is None or not Path("/usr/include/jwt.h").exists():
        pytest.skip("libjwt is not installed (Debian: libjwt-dev)")
    source = tmp_path / "libjwt.c"
    source.write_text(LIBJWT)
    run("cc", source, "-ljwt", "-o", tmp_path / "libjwt", environment={})
    assert forge.parse(run(tmp_path / "libjwt", environment={})).header["typ"] == "JWT"


def test_mojo_jwt_cannot_set_typ():
    if subprocess.run(["perl", "-MMojo::JWT", "-e", ""], capture_output=True).returncode:
        pytest.skip("Mojo::JWT is not installed (Debian: libmojo-jwt-perl)")
    assert forge.parse(run("perl", "-MMojo::JWT", "-e", MOJO_JWT, environment={})).header["typ"] == "JWT"


@pytest.fixture
def ours(pairs: dict[str, forge.Pair], alg: str) -> str:
    """A token of this package."""
    return issue_token(
        tokens.Player("42", "ann@example.com", "ann"),
        PrivateKey(pairs[alg].kid, alg, pairs[alg].key),
        rules.Policy(ISSUER, APPLICATION_ID, Keyring(), int(time.time())),
    )


@pytest.mark.parametrize("alg", recipes.ALGORITHMS)
def test_jose_accepts_our_tokens(pairs: dict[str, forge.Pair], alg: str, ours: str, tmp_path: Path):
    built("node")
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [pair.public for pair in pairs.values()]}))
    claims = run("node", build.BUILD / "node" / "verify.mjs", jwks, ISSUER, APPLICATION_ID, ours, environment={})
    assert json.loads(claims) == forge.parse(ours).claims


@pytest.mark.parametrize("alg", recipes.ALGORITHMS)
def test_golang_jwt_accepts_our_tokens(pairs: dict[str, forge.Pair], alg: str, ours: str, tmp_path: Path):
    built("go")
    pem = tmp_path / "public.pem"
    public = pairs[alg].key.public_key()
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    claims = run(build.BUILD / "go" / "verify", pem, alg, ours, environment={})
    assert json.loads(claims) == forge.parse(ours).claims
