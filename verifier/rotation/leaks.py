"""Private keys: how one is recognized in any file, and where git has those of a key directory."""

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
)

from verifier.core import jwk
from verifier.core.encoding import loads_object
from verifier.errors import KeyFileError
from verifier.rotation.git import Git, list_objects, read_objects

TIMEOUT_S = 20.0  # because a large repository has many objects to search
MAX_BYTES = 1_048_576  # of an object; a larger one is not searched
_MAX_KEY_BYTES = 65_536  # of a key without the lines of PEM around it
# Each part ends at the first character that cannot be in it, because hostile text must not be read again and again.
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----[^-]*-----END ([A-Z0-9]+ )*PRIVATE KEY-----")
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----")
_MEMBER = re.compile(rb'"(?:' + "|".join(sorted(jwk.PRIVATE_MEMBERS)).encode() + rb')"\s*:')
_OBJECT = re.compile(rb"\{[^{}]*\}")
# In DER, a sequence that begins with the version and what follows it in PKCS#8, SEC 1, PKCS#1 or PKCS#12, or with the
# algorithm of an encrypted PKCS#8 key.
_DER = re.compile(
    rb"\A\x30(?:[^\x80-\xff]|\x81.|\x82..)"
    rb"(?:\x02\x01[\x00\x01][\x30\x04\x02]|\x02\x01\x03\x30|\x30[^\x80-\xff]\x06.\x2a\x86\x48\x86\xf7\x0d\x01[\x05\x0c])",
    re.DOTALL,
)


def is_private_key(content: bytes, *, members: bool = True) -> bool:
    """Return whether a file is or contains any private key; with `members`, one in the members of a JWK, too."""
    text = content.replace(b"\0", b"")  # so that UTF-16 is recognized
    found = _BEGIN.search(text) or (members and _MEMBER.search(text))
    return bool(found or _DER.match(content) or _DER.match(_from_base64(content)))


def _from_base64(content: bytes) -> bytes:
    """Return what a text consists of if it is base64 only, as the lines of a PEM file without the first and last."""
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return b""


def search(git: Git, prefix: str, kids: Collection[str]) -> Iterator[str]:
    """Yield where a commit or tag contains the private key of one of these keys, outside of the key directory.

    Raises:
        GitError: the search did not end in time, or there is too much to read.
    """
    git = git.within(TIMEOUT_S)
    listed = list_objects(git)
    sizes = {name: size for name, (kind, size) in listed.items() if kind != "tree" and size <= MAX_BYTES}
    for name, content in read_objects(git, sizes):
        for kid in sorted(_kids(content).intersection(kids)):
            for found in _places(git, prefix, name, listed[name][0])[-1:]:  # the first commit
                yield f"{found[0]} contains the private key of {kid} in {found[1]}"


def _places(git: Git, prefix: str, name: str, kind: str) -> list[tuple[str, str]]:
    """Return which commits and tags contain an object, and as what; none if only git's own files still have it."""
    if kind == "commit":
        found = name in git.text("rev-list", "--all").split()
        return [(f"commit {name[:12]}", "its message")] if found else []
    if kind == "tag":
        return [(f"tag object {name[:12]}", "its message")]
    changes = [(c, path) for c, blob, path in git.changes(f"--find-object={name}") if blob == name]
    if not changes and name in git.text("for-each-ref", "--format=%(objectname) %(*objectname)").split():
        return [("a tag", f"the file {name[:12]} that it names")]
    outside = [(commit, path) for commit, path in changes if not path.startswith(prefix)]  # none if it is everything
    return [(f"commit {commit[:12]}", f"{path}, outside of the key directory") for commit, path in outside]


def _kids(content: bytes) -> set[str]:
    """Return the key IDs of the private keys in a file: PEM, also in JSON or indented, JWK, DER, and base64 of DER."""
    text, kids = content.replace(b"\0", b""), set()
    for load, part in _candidates(content, text):
        try:
            kids.add(str(jwk.dump(load(part, None).public_key())["kid"]))
        except (TypeError, ValueError, UnsupportedAlgorithm, KeyFileError):
            continue  # encrypted, or of another kind
    plain = text.replace(b"\\", b"")
    for match in _OBJECT.finditer(plain) if b'"d"' in plain else ():
        if b'"d"' in match[0]:
            with contextlib.suppress(TypeError, ValueError, KeyError, StopIteration):
                kids.add(jwk.thumbprint(loads_object(match[0])))
    return kids


def _candidates(content: bytes, text: bytes) -> Iterator[tuple[Callable[[bytes, None], Any], bytes]]:
    """Yield each part of a file that may be a private key, and what loads it."""
    if b"PRIVATE KEY-----" in text:
        for match in _PEM.finditer(re.sub(rb"\r?\n[ \t]*", b"\n", text.replace(b"\\n", b"\n"))):
            yield load_ssh_private_key if b"OPENSSH" in match[0] else load_pem_private_key, match[0] + b"\n"
    if len(content) <= _MAX_KEY_BYTES:
        for der in (content, _from_base64(content)):
            if _DER.match(der):
                yield load_der_private_key, der
