"""Private keys of a key directory that were committed anywhere in its repository, as PEM."""

import re
from collections.abc import Collection, Iterator

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from verifier.core import jwk
from verifier.errors import KeyFileError
from verifier.rotation.git import Git, read_blobs

TIMEOUT_S = 20.0  # because a large repository has many changes to search
MAX_BYTES = 1_048_576  # of a file; a larger one is not searched
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----.*?-----END ([A-Z0-9]+ )*PRIVATE KEY-----", re.DOTALL)


def search(git: Git, prefix: str, kids: Collection[str]) -> Iterator[str]:
    """Yield each file outside of the key directory that contained the private key of one of these keys.

    Raises:
        GitError: the search did not end in time, or there is too much to read.
    """
    if not prefix:
        return  # the key directory is the whole repository
    git = git.within(TIMEOUT_S)
    names = {name for _, _, name in git.changes("--text", "-G", "PRIVATE KEY-----")}
    names = {name for name in names if not name.startswith(prefix)}
    if not names:
        return
    # Every version of these files, because a key can be replaced between the same two lines.
    places = {blob: (commit, name) for commit, blob, name in git.changes("--", *sorted(names))}
    sizes = git.text("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin="\n".join(places).encode())
    small = [blob for blob, size in map(str.split, sizes.splitlines()) if size.isdecimal() and int(size) <= MAX_BYTES]
    for blob, content in read_blobs(git, small).items():
        for kid in sorted(_kids(content).intersection(kids)):
            commit, name = places[blob]
            yield f"commit {commit[:12]} contains the private key of {kid} in {name}, outside of the key directory"


def _kids(content: bytes) -> set[str]:
    """Return the key IDs of the private keys in a file; also of those in JSON or indented."""
    text = re.sub(rb"\r?\n[ \t]*", b"\n", content.replace(b"\0", b"").replace(b"\\n", b"\n"))
    found = set()
    for match in _PEM.finditer(text):
        try:
            found.add(jwk.dump(load_pem_private_key(match[0] + b"\n", password=None).public_key())["kid"])
        except (TypeError, ValueError, UnsupportedAlgorithm, KeyFileError):  # encrypted, or of another kind
            continue
    return found
