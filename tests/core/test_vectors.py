"""The language-neutral vectors of tests/vectors, run against this package. Their format: tests/vectors/README.md."""

import base64
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import forge
from verifier.core import jwk, rules, tokens
from verifier.core.encoding import b64url_decode
from verifier.core.keyring import Keyring, parse_public_key
from verifier.errors import InvalidToken, KeyFileError
from verifier.signing import keystore

FOLDER = Path(__file__).parents[1] / "vectors"
TOKENS, KEYS, SIGNATURES = (
    json.loads((FOLDER / name).read_text("utf-8")) for name in ("tokens.json", "jwk.json", "signatures.json")
)

P256 = {
    "n": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "p": 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF,
}
ED25519_L = 2**252 + 27742317777372353535851937790883648493
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Vectors:
    """The keys of one run, and the tokens built with them."""

    def __init__(self) -> None:
        self.pairs = {
            name: forge.Pair(key["alg"], keystore.generate(key["alg"])) for name, key in TOKENS["keys"].items()
        }
        self.keyring = Keyring(
            parse_public_key(
                f"{pair.kid}.json",
                json.dumps(pair.public | TOKENS["keys"][name] | {"iat": TOKENS["now"] - 1000}).encode(),
            )
            for name, pair in self.pairs.items()
        )
        self.untrusted = functools.cache(lambda alg: forge.Pair(alg, keystore.generate(alg)))

    def token(self, case: dict[str, Any], key: str) -> str:
        """The token a case describes, signed by this key."""
        pair = self.pairs[key]
        fill = self._fill(pair)
        header, claims = (self._part(case, part, fill) for part in ("header", "claims"))
        signer = self.untrusted(pair.alg) if case.get("signed_by") == "untrusted" else pair
        parts = {"header": forge.b64(header), "claims": forge.b64(claims)}
        signing_input = f"{parts['header']}.{parts['claims']}".encode()
        signature = signer.sign(signing_input)
        for what, how in case.get("tampering", {}).items():
            if what == "signature":
                signature = bytes.fromhex(how["hex"]) if isinstance(how, dict) else TAMPERED[how](pair, signing_input)
            elif what in ("r", "s"):
                signature = _numbers(signature, case["tampering"])
                break
            elif what == "hmac":
                signature = hmac.digest(_secret(pair, how), signing_input, "sha256")
            elif what in ("header", "claims"):
                members = json.loads(header if what == "header" else claims)
                parts[what] = forge.b64(_compact(members | how))
        parts["signature"] = forge.b64(signature)
        _respell(parts, case.get("tampering", {}))
        text = _pieces(case.get("token", ["$header.$claims.$signature"])).decode()
        return re.sub(r"\$(header|claims|signature)", lambda match: parts[match[1]], text)

    def _part(self, case: dict[str, Any], part: str, fill: Callable[[Any], Any]) -> bytes:
        if f"{part}_text" in case:
            return _pieces(fill(case[f"{part}_text"]))
        members = TOKENS[part] | case.get(part, {})
        for name in case.get(f"without_{part}", ()):
            del members[name]
        text = _compact(fill(members))
        for name, value in fill(case.get(f"{part}_json", [])):
            comma = b"" if text == b"{}" else b","
            text = text[:-1] + comma + name.encode() + b":" + _pieces(value) + b"}"
        return text

    def _fill(self, pair: forge.Pair) -> Callable[[Any], Any]:
        """A function that puts the keys of this run in the place of $kid and its like."""
        words = {f"$kid({name})": other.kid for name, other in self.pairs.items()}
        words |= {"$kid": pair.kid, "$alg": pair.alg}

        def fill(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: fill(member) for name, member in value.items()}
            if isinstance(value, list):
                return [fill(member) for member in value]
            if value == "$untrusted_jwk":
                return self.untrusted(pair.alg).public
            if value == "$untrusted_kid":
                return self.untrusted(pair.alg).kid
            if isinstance(value, str):
                for word, stands_for in words.items():
                    value = value.replace(word, stands_for)
            return value

        return fill


def _compact(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _pieces(value: Any) -> bytes:
    """The bytes that a text, or a list of pieces, stands for."""
    if isinstance(value, str):
        return value.encode()
    out = b""
    for piece in value:
        if isinstance(piece, dict):
            out += bytes.fromhex(piece["hex"])
        elif isinstance(piece, list):
            out += piece[0].encode() * piece[1]
        else:
            out += piece.encode()
    return out


def _numbers(signature: bytes, spelled: dict[str, str]) -> bytes:
    """An ES256 signature of the two numbers that are spelled out, like `n-s`."""
    known = P256 | {"r": int.from_bytes(signature[:32]), "s": int.from_bytes(signature[32:])}

    def number(text: str) -> int:
        value, sign = 0, 1
        for term in re.findall(r"[+-]|2\^256|[a-z]|\d+", text):
            if term in "+-":
                sign = 1 if term == "+" else -1
            else:
                value += sign * (2**256 if term == "2^256" else known.get(term) or int(term))
        return value

    return b"".join(number(spelled[name]).to_bytes(32) for name in ("r", "s"))


def _secret(pair: forge.Pair, how: str) -> bytes:
    """A public key as the secret of an HMAC."""
    public = pair.key.public_key()
    return {
        "": lambda: b"",
        "jwk": lambda: json.dumps(pair.public).encode(),
        "pem": lambda: public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": lambda: public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "x": lambda: b64url_decode(pair.public["x"]),
        "kid": lambda: pair.kid.encode(),
    }[how]()


def _respell(parts: dict[str, str], tampering: dict[str, str]) -> None:
    """Write a part otherwise; what it encodes stays the same for a lenient reader."""
    before = dict(parts)
    if "alphabet" in tampering:
        part = tampering["alphabet"]
        parts[part] = parts[part].replace("-", "+").replace("_", "/")
    elif "spare_bits" in tampering:
        part = tampering["spare_bits"]
        parts[part] = parts[part][:-1] + ALPHABET[ALPHABET.index(parts[part][-1]) + 1]
    else:
        return
    padded = (text[part].replace("+", "-").replace("/", "_") + "==" for text in (before, parts))
    assert parts != before
    assert len({base64.urlsafe_b64decode(text) for text in padded}) == 1


def _decoded(signing_input: bytes) -> bytes:
    return b".".join(b64url_decode(part) for part in signing_input.decode().split("."))


def _otherwise(pair: forge.Pair, signing_input: bytes, digest: Any, pss: bool = False) -> bytes:
    """A signature over the right bytes with another digest or padding."""
    if isinstance(pair.key, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(digest), 32) if pss else padding.PKCS1v15()
        return pair.key.sign(signing_input, scheme, digest)
    with_digest = pair.key.sign(signing_input, ec.ECDSA(digest))
    r, s = forge.decode_dss_signature(with_digest)
    return r.to_bytes(32) + s.to_bytes(32)


def _der(pair: forge.Pair, signing_input: bytes) -> bytes:
    """An ES256 signature in DER, of a length that most have: one in 500 is shorter than 70 bytes."""
    while True:
        good = pair.sign(signing_input)
        der = encode_dss_signature(int.from_bytes(good[:32]), int.from_bytes(good[32:]))
        if len(der) >= 70:
            return der


def _of_good(change: Callable[[bytes], bytes]) -> Callable[[forge.Pair, bytes], bytes]:
    return lambda pair, signing_input: change(pair.sign(signing_input))


TAMPERED: dict[str, Callable[[forge.Pair, bytes], bytes]] = {
    "of another token": lambda pair, _: pair.sign(b"e30.e30"),
    "over the payload alone": lambda pair, text: pair.sign(text.split(b".")[1]),
    "over the decoded parts": lambda pair, text: pair.sign(_decoded(text)),
    "over SHA-512": lambda pair, text: pair.sign(hashlib.sha512(text).digest()),
    "with SHA-384": lambda pair, text: _otherwise(pair, text, hashes.SHA384()),
    "with SHA-1": lambda pair, text: _otherwise(pair, text, hashes.SHA1()),  # noqa: S303
    "with PSS": lambda pair, text: _otherwise(pair, text, hashes.SHA256(), pss=True),
    "zeros": _of_good(lambda good: bytes(len(good))),
    "ones": _of_good(lambda good: b"\xff" * len(good)),
    "without the last byte": _of_good(lambda good: good[:-1]),
    "without the first byte": _of_good(lambda good: good[1:]),
    "first half": _of_good(lambda good: good[: len(good) // 2]),
    "and a zero byte": _of_good(lambda good: good + b"\0"),
    "after a zero byte": _of_good(lambda good: b"\0" + good),
    "twice": _of_good(lambda good: good * 2),
    "first bit flipped": _of_good(lambda good: bytes([good[0] ^ 0x80]) + good[1:]),
    "last bit flipped": _of_good(lambda good: good[:-1] + bytes([good[-1] ^ 1])),
    "last bit of 64 bytes set": _of_good(lambda good: good[:-1] + bytes([good[-1] | 0x80])),
    "in hexadecimal": _of_good(lambda good: good.hex().encode()),
    "in base64url": _of_good(lambda good: forge.b64(good).encode()),
    "DER": _der,
    "r and s of 66 bytes": _of_good(lambda good: bytes(34) + good[:32] + bytes(34) + good[32:]),
    "s before r": _of_good(lambda good: good[32:] + good[:32]),
    "little-endian": _of_good(lambda good: good[:32][::-1] + good[32:][::-1]),
    "S + L": _of_good(
        lambda good: good[:32] + (int.from_bytes(good[32:], "little") + ED25519_L).to_bytes(32, "little")
    ),
}


@pytest.fixture(scope="session")
def vectors() -> Vectors:
    return Vectors()


def _keys(case: dict[str, Any]) -> list[str]:
    keys = case.get("key", "ES256")
    return keys if isinstance(keys, list) else [keys]


@pytest.mark.parametrize(
    ("case", "key"),
    [
        pytest.param(case, key, id=f"{case['group']}: {case['name']} ({key})")
        for case in TOKENS["cases"]
        for key in _keys(case)
    ],
)
def test_a_token_gives_what_its_vector_says(vectors: Vectors, case: dict[str, Any], key: str):
    token = vectors.token(case, key)
    policy = rules.Policy(**TOKENS["policy"], keyring=vectors.keyring, now=case.get("now", TOKENS["now"]))
    expected = case["expected"]
    if "accept" in expected:
        profile = {name: _pieces(value).decode() for name, value in expected["accept"].items()}
        player = tokens.verify(token, policy)
        found = {"_id": player.id, "email": player.email, "username": player.username}
        assert {name: value for name, value in found.items() if value is not None} == profile
    else:
        with pytest.raises(InvalidToken) as error:
            tokens.verify(token, policy)
        assert error.value.reason == expected["reject"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in KEYS["cases"]])
def test_a_jwk_gives_what_its_vector_says(case: dict[str, Any]):
    members = KEYS["keys"][case["key"]]["jwk"] | case.get("jwk", {})
    for name in case.get("without", ()):
        del members[name]
    expected = case["expected"]
    if "accept" in expected:
        algorithm, key = jwk.load(members)
        assert algorithm.name == expected["accept"]["alg"]
        assert jwk.thumbprint(members) == jwk.dump(key)["kid"] == expected["accept"]["thumbprint"]
    else:
        with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(expected['reject'])}$"):
            jwk.load(members)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in SIGNATURES["cases"]])
def test_a_signature_holds_where_its_vector_says(case: dict[str, Any]):
    published = KEYS["keys"][case["jwk"]]
    members = {"alg": published["alg"]} | published["jwk"]
    kid = jwk.thumbprint(members)
    file = json.dumps(members | {"kid": kid, "iat": 0, "nbf": 0}).encode()
    key = parse_public_key(f"{kid}.json", file)
    assert key.verify(case["signing_input"].encode(), b64url_decode(case["signature"])) is case["valid"]


@pytest.mark.parametrize("vectors_of", [TOKENS, KEYS, SIGNATURES], ids=["tokens", "jwk", "signatures"])
def test_the_names_of_vectors_are_unique_and_each_says_why(vectors_of: dict[str, Any]):
    names = [case["name"] for case in vectors_of["cases"]]
    assert len(names) == len(set(names))
    assert all(case["because"] for case in vectors_of["cases"])
