"""Coverage-guided fuzzing (atheris, libFuzzer) of everything that reads what strangers write.

    python -m tests.fuzz.target NAME [libFuzzer options] [corpus folders]

A finding is any exception but the documented one, and any answer that `tests.contract` does not allow;
the request targets also compare every verdict with its naive second opinion.
Mutated bytes never carry a good signature, so most targets sign after the mutation, with keys made at the start:

    request     the body of POST /profile; $token stands for a good token
    token       the text of a token; $header, $claims and $signature stand for those of a good one
    header      the JSON of a header, signed with the claims of a good token; $kid and $alg for those of the key
    claims      the JSON of the claims, signed under a good header
    json        encoding.loads_object
    base64url   encoding.b64url_decode
    key         a file of keys/public, and `key_import.read_document`
    applications  an applications file
    connection  what a client sends to a connection (tests/fuzz/connection.py)
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:  # the seeds are also run by tests/test_hostile.py, where there is no fuzzer
    atheris = None

with atheris.instrument_imports(include=["verifier"]) if atheris else nullcontext():
    from verifier.core import applications, encoding, jwk, keyring, tokens  # noqa: F401
    from verifier.errors import ConfigError, KeyFileError
    from verifier.rotation import key_import, secret_changes
    from verifier.server import connection as server_connection  # noqa: F401
    from verifier.server import endpoints  # noqa: F401

from tests.fuzz import connection
from tests.support import contract, forge
from tests.support.contract import APPLICATION_ID, ISSUER, NOW, SECRET, World

CLAIMS = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": NOW, "exp": NOW + 300, "username": "ann"}


def targets(world: World) -> dict[str, Callable[[bytes], None]]:
    """Every target by its name; each takes the bytes that the fuzzer made."""

    def pair_of(data: bytes) -> forge.Pair:
        return next((world.pairs[alg] for alg in ("ES256", "RS256") if alg.encode() in data), world.pairs["EdDSA"])

    def filled(data: bytes, pair: forge.Pair) -> bytes:
        return data.replace(b"$kid", pair.kid.encode()).replace(b"$alg", pair.alg.encode())

    def ask(code: str) -> None:
        world.judge(json.dumps({"code": code, "secretKey": SECRET, "applicationId": APPLICATION_ID}).encode())

    headers = {alg: filled(b'{"alg":"$alg","kid":"$kid","typ":"at+jwt"}', pair) for alg, pair in world.pairs.items()}
    good = forge.sign(world.pairs["EdDSA"], headers["EdDSA"], json.dumps(CLAIMS))
    pieces = dict(zip((b"$header", b"$claims", b"$signature"), good.encode().split(b"."), strict=True))

    def request(data: bytes) -> None:
        world.judge(data.replace(b"$token", good.encode()))

    def token(data: bytes) -> None:
        for name, piece in pieces.items():
            data = data.replace(name, piece)
        ask(data.decode("utf-8", "surrogateescape"))

    def header(data: bytes) -> None:
        pair = pair_of(data)
        ask(forge.sign(pair, filled(data, pair), json.dumps(CLAIMS)))

    def claims(data: bytes) -> None:
        pair = pair_of(data)
        ask(forge.sign(pair, headers[pair.alg], data))

    def json_(data: bytes) -> None:
        found = verdict(encoding.loads_object, data, ValueError)
        expected = verdict(contract.naive_json, data, (AssertionError, ValueError, RecursionError))
        if not (isinstance(found, ValueError) and "too many objects" in str(found)) and not isinstance(
            expected, RecursionError
        ):
            assert isinstance(found, dict) is isinstance(expected, dict), (found, expected)
            assert not isinstance(found, dict) or as_floats(found) == as_floats(expected), (found, expected)

    def base64url(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        found = verdict(encoding.b64url_decode, text, ValueError)
        expected = verdict(contract.naive_base64url, text, AssertionError)
        assert isinstance(found, bytes) is isinstance(expected, bytes), (found, expected)
        assert not isinstance(found, bytes) or found == expected, (found, expected)

    def key(data: bytes) -> None:
        found = verdict(lambda d: keyring.parse_public_key(name_of(d), d), data, KeyFileError)
        if isinstance(found, keyring.PublicKey):
            ring = keyring.Keyring([found])
            assert ring.find(found.kid) is found
            assert len(ring.jwks(NOW)) == (not found.has_ended(NOW))
            assert not json.dumps(ring.jwks(NOW)).count('"d"')
        imported = verdict(
            lambda d: [v.members for v in key_import.read_document(d, "file") if v.members], data, KeyFileError
        )
        for members in imported if isinstance(imported, list) else ():
            assert jwk.dump(jwk.load(members)[1]).items() <= members.items()

    def applications_(data: bytes) -> None:
        found = verdict(applications.parse, data, ConfigError)
        if isinstance(found, tuple):
            assert applications.parse(secret_changes.dump(found[0]))[0].by_id == found[0].by_id
            found[0].weaknesses()

    def connection_(data: bytes) -> None:
        with connection.small_limits():
            connection.target(data)

    return {
        "connection": connection_,
        "request": request,
        "token": token,
        "header": header,
        "claims": claims,
        "json": json_,
        "base64url": base64url,
        "key": key,
        "applications": applications_,
    }


def verdict(read: Callable[[Any], Any], data: Any, refusal: Any) -> Any:
    """What a reader gives, or its documented refusal as a value; anything else passes as a finding."""
    try:
        return read(data)
    except refusal as exc:
        return exc


def name_of(data: bytes) -> str:
    """The name under which a key file would be accepted, where one exists."""
    try:
        return f"{jwk.thumbprint(encoding.loads_object(data))}.json"
    except (KeyError, StopIteration, ValueError):
        return "x.json"


def as_floats(value: Any) -> str:
    """A JSON value as text with every number as a float, -0 as 0; NaN never occurs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {as_floats(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_floats, value)) + "]"
    return repr(value + 0.0) if type(value) in (int, float) else repr(value)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = sys.argv.pop(1)
        limits: AbstractContextManager[None]
        if name == "connection":  # has a clock of its own, and limits that are set once because that takes time
            limits, chosen = connection.small_limits(), connection.target
        else:
            world = World(Path(folder) / "keys")
            world.stop_the_clock()
            limits, chosen = nullcontext(), targets(world)[name]
        with limits:
            atheris.Setup(sys.argv, chosen)
            atheris.Fuzz()  # does not return


if __name__ == "__main__":
    main()
