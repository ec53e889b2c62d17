"""A private key of the key directory that was committed elsewhere in its repository."""

import base64
import json
import shutil
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from tests.rotation.test_tampering import commit, git
from tests.rotation.test_tampering import committed_keys as committed_keys  # a fixture
from tests.rotation.test_tampering import repository as repository  # a fixture
from verifier.core.encoding import b64url_encode
from verifier.rotation import leaks, witness
from verifier.signing import private_key


def leak(repository: Any, content: bytes | str, name: str = "deploy/k.pem") -> str:
    """Commit a file, and return the commit."""
    path = repository.top / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    commit(repository.top)
    return git(repository.top, "rev-parse", "HEAD").strip()


def pem(repository: Any, encoding: Encoding = Encoding.PEM, password: bytes | None = None) -> bytes:
    key = load_pem_private_key((repository.keys / "private" / f"{repository.current}.pem").read_bytes(), None)
    protection = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(encoding, PrivateFormat.PKCS8, protection)


def found(repository: Any) -> tuple[str, ...]:
    return witness.query(repository.keys, repository.log.read_bytes()).private


def expected(repository: Any, commit: str, name: str = "deploy/k.pem") -> tuple[str, ...]:
    kid = repository.current
    return (f"commit {commit[:12]} contains the private key of {kid} in {name}, outside of the key directory",)


def other() -> str:
    key = private_key.generate("ES256")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: f"# of the game\n{other()}\n{text}",
        lambda text: json.dumps({"key": text}),
        lambda text: "key: |\n" + "".join(f"    {line}\n" for line in text.splitlines()),
    ],
    ids=["pem", "crlf", "second", "json", "yaml"],
)
def test_a_private_key_that_was_committed_elsewhere_is_found(repository, write):
    text = pem(repository).decode()
    added = leak(repository, write(text))
    assert found(repository) == expected(repository, added)
    shutil.rmtree(repository.top / "deploy")
    commit(repository.top)
    assert found(repository) == expected(repository, added)
    assert repository.audit() == ["private-tracked"]


def test_a_key_that_replaces_another_between_the_same_lines_is_found(repository):
    leak(repository, other())
    added = leak(repository, pem(repository))
    leak(repository, other())
    assert found(repository) == expected(repository, added)


def test_keys_of_other_programs_are_none_of_this_directory(repository, monkeypatch):
    leak(repository, other())
    leak(repository, pem(repository, password=b"secret"), "encrypted.pem")
    leak(repository, "-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n", "broken.pem")
    monkeypatch.setattr(leaks, "MAX_BYTES", 100)
    leak(repository, pem(repository), "large.pem")
    assert found(repository) == ()


def test_a_search_that_does_not_end_in_time_is_not_reported_as_one_that_found_nothing(repository, monkeypatch):
    monkeypatch.setattr(leaks, "TIMEOUT_S", 0)
    queried = witness.query(repository.keys, repository.log.read_bytes())
    assert (queried.private, queried.unsearched) == ((), "git cat-file did not end in time")
    assert repository.audit() == []


@pytest.mark.parametrize("write", [lambda der: der, base64.b64encode, base64.encodebytes], ids=["der", "line", "lines"])
def test_a_private_key_without_the_lines_of_pem_is_found_in_the_key_directory(repository, write):
    leak(repository, write(pem(repository, Encoding.DER)), "keys/old")
    assert repository.audit() == ["private-tracked", "private-elsewhere"]
    (repository.keys / "old").unlink()
    commit(repository.top)
    assert repository.audit() == ["private-tracked"]


@pytest.mark.parametrize(
    "write",
    [
        lambda key: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        lambda key: pkcs12.serialize_key_and_certificates(b"k", key, None, None, BestAvailableEncryption(b"secret")),
        lambda key: pkcs12.serialize_key_and_certificates(b"k", key, None, None, NoEncryption()),
        lambda key: key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    ],
    ids=["pkcs8", "pkcs12", "open-pkcs12", "openssh"],
)
def test_an_encrypted_private_key_is_found_in_the_key_directory_and_its_commits(repository, write):
    key = load_pem_private_key(pem(repository), None)
    added = leak(repository, write(key), "keys/notes")
    assert repository.audit() == ["private-tracked", "private-elsewhere"]
    (repository.keys / "notes").unlink()
    commit(repository.top)
    assert found(repository) == (f"commit {added[:12]} contains notes",)


def members(repository: Any) -> dict[str, str]:
    """The private key as a JWK."""
    numbers = load_pem_private_key(pem(repository), None).private_numbers()
    public = json.loads((repository.keys / "public" / f"{repository.current}.json").read_text())
    return {name: public[name] for name in ("kty", "crv", "x", "y")} | {
        "d": b64url_encode(numbers.private_value.to_bytes(32, "big"))
    }


@pytest.mark.parametrize(
    "write",
    [
        lambda repository: pem(repository, Encoding.DER),
        lambda repository: base64.encodebytes(pem(repository, Encoding.DER)),
        lambda repository: json.dumps(members(repository)),
        lambda repository: json.dumps({"keys": [{"kty": "oct", "d": 1}, {"d": "x"}, members(repository)]}, indent=2),
        lambda repository: json.dumps({"jwk": json.dumps(members(repository))}),
        lambda repository: load_pem_private_key(pem(repository), None).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ),
    ],
    ids=["der", "base64", "jwk", "jwks", "text", "openssh"],
)
def test_every_common_form_of_a_private_key_is_found_elsewhere(repository, write):
    added = leak(repository, write(repository), "deploy/notes")
    assert found(repository) == expected(repository, added, "deploy/notes")


@pytest.mark.parametrize(
    "content",
    [
        b"{" + b'"d":' * 50_000,
        b'{"d":' * 50_000,
        b"-----BEGIN PRIVATE KEY-----" * 35_000,
        b"-----BEGIN " + b"RSA " * 250_000,
        b'{"e":1}{"d":' + b"[" * 500_000 + b"}",
    ],
    ids=["members", "objects", "begins", "label", "nested"],
)
def test_hostile_text_takes_no_time_that_grows_with_its_square(repository, content):
    leak(repository, content)
    start = time.monotonic()
    assert found(repository) == ()
    assert time.monotonic() - start < 15


def test_a_private_key_in_the_message_of_a_commit_or_tag_is_found(repository):
    text, kid = pem(repository).decode(), repository.current
    git(repository.top, "commit", "-q", "--allow-empty", "-m", text)
    amended = git(repository.top, "rev-parse", "HEAD").strip()
    assert found(repository) == (f"commit {amended[:12]} contains the private key of {kid} in its message",)
    git(repository.top, "commit", "-q", "--amend", "--allow-empty", "-m", "nothing")
    assert found(repository) == ()  # no branch or tag contains it
    git(repository.top, "tag", "-a", "release", "-m", text)
    tag = git(repository.top, "rev-parse", "release").strip()
    assert found(repository) == (f"tag object {tag[:12]} contains the private key of {kid} in its message",)


@pytest.mark.parametrize("options", [(), ("-a", "-m", "the file")])
def test_a_private_key_that_only_a_tag_names_is_found(repository, options):
    (repository.top / ".git" / "k").write_bytes(pem(repository))
    blob = git(repository.top, "hash-object", "-w", ".git/k").strip()
    assert found(repository) == ()
    git(repository.top, "tag", *options, "release", blob)
    where = f"in the file {blob[:12]} that it names"
    assert found(repository) == (f"a tag contains the private key of {repository.current} {where}",)


def test_a_key_directory_that_is_the_whole_repository_has_nothing_around_it(repository):
    shutil.rmtree(repository.top / ".git")
    git(repository.keys, "init", "-q")
    commit(repository.keys)
    assert found(repository) == ()


@pytest.mark.parametrize("name", ["deploy/\x01" + "a" * 40, ":000000 100644 0 0 A", "\x01" + "a" * 40, "\nk\n"])
def test_the_name_of_a_file_does_not_hide_its_private_key(repository, name):
    added = leak(repository, pem(repository), name)
    assert found(repository) == expected(repository, added, name)


def test_a_private_key_that_replaced_a_link_is_found(repository):
    path = repository.top / "k"
    path.symlink_to("nowhere")
    commit(repository.top)
    path.unlink()
    added = leak(repository, pem(repository), "k")
    assert found(repository) == expected(repository, added, "k")
