"""Hostile input: requests that begin as accepted ones and are changed, as bytes, JSON, base64url and parts.

`World.judge` (tests/contract.py) holds every answer against the contract and every verdict against a second,
naive opinion; here is only what is sent.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from tests.fuzz import run, seeds
from tests.fuzz.target import targets
from tests.support import contract, forge
from tests.support.contract import APPLICATION_ID, ISSUER, NOW, SECRET, Raw, World

HEADER = {"alg": "$alg", "kid": "$kid", "typ": "at+jwt"}
CLAIMS = {
    "iss": ISSUER,
    "aud": APPLICATION_ID,
    "sub": "42",
    "iat": NOW,
    "exp": NOW + 300,
    "email": "ann@example.com",
    "username": "ann",
}
many = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, forge.Pair]) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("hostile") / "keys", pairs)
    with pytest.MonkeyPatch.context() as patch:
        world.stop_the_clock(patch.setattr)
        yield world
    world.loop.close()


# JSON values, good and bad, as they are written.
WRITTEN = st.sampled_from(
    [
        *("null", "true", "false", "{}", "[]", '""', "0", "-0", "-1", "1.5", "1E5", "01", "+1", "1.", ".5", "0x10", ""),
        *("1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "9" * 19, "9" * 20, "9" * 5000, "-" + "9" * 400),
        *(
            '"\\ud800"',
            '"\\udc00\\ud800"',
            '"\\ud83d\\ude00"',
            '"\ud83d\ude00"',
            '"\\u0000"',
            '"\0"',
            '"\n"',
            '"\\x41"',
        ),
        *(
            '"a',
            "'a'",
            '"\ufeff"',
            '"\u2028"',
            '"\\/"',
            '"%s"' % ("x" * 321),
            '"%s"' % ("\\ud83d\\ude00" * 255),
            '"\\u"',
        ),
        *("[" * 60 + "]" * 60, "[" * 3000, '{"a":' * 900 + "1" + "}" * 900, '{"a":1,"a":1}', '[{"a":1,"\\u0061":2}]'),
        *(f"{NOW + s}" for s in (-331, -330, -31, -30, -29, 0, 1, 29, 30, 31, 299, 300, 301, 330, 331)),
        *(f"{NOW + s}.{f}" for s in (-30, 0, 30, 299, 300, 330) for f in ("0", "5", "000001", "999999")),
        *(f'"{NOW + 300}"', f"{NOW + 300}000", f"{NOW + 300}e0", f"{(NOW + 300) / 1000}e3", "1e11", "100000000001"),
        *(
            f'"{text}"'
            for text in (ISSUER, ISSUER + "/", APPLICATION_ID, "at+jwt", "JWT", "AT+JWT", "Application/At+JWT")
        ),
        *(f'"{text}"' for text in ("ES256", "EdDSA", "RS256", "Ed25519", "HS256", "none", "$alg", "$kid", "../$kid")),
        *(f'["{APPLICATION_ID}"]', f'["x","{APPLICATION_ID}"]', f'["{APPLICATION_ID}",1]', f'[["{APPLICATION_ID}"]]'),
    ]
) | st.text(max_size=8).map(json.dumps)
NAMES = st.sampled_from(
    [
        *HEADER,
        *CLAIMS,
        "nbf",
        "crit",
        "b64",
        "zip",
        "jwk",
        "jku",
        "x5c",
        "jti",
        "_id",
        "code",
        "secretKey",
        "__proto__",
        "",
    ]
)


def escaped(text: str) -> str:
    """JSON that says the same in another way: every other character as an escape."""
    return "".join(f"\\u{ord(c):04x}" if n % 2 and ord(c) < 0x10000 else c for n, c in enumerate(text))


@st.composite
def spelled(draw: Any, members: dict[str, Any]) -> bytes:
    """A JSON object with these members, all but the mutations of up to three of them."""
    pairs = [(json.dumps(name), json.dumps(value)) for name, value in members.items()]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(pairs) - 1)) if pairs else 0
        match draw(st.sampled_from(["replace", "replace", "drop", "twice", "add", "escape", "order"])):
            case "replace" if pairs:
                pairs[at] = (pairs[at][0], draw(WRITTEN))
            case "drop" if pairs:
                del pairs[at]
            case "twice" if pairs:
                name = pairs[at][0]
                again = f'"{escaped(json.loads(name))}"' if draw(st.booleans()) else name
                pairs.append((again, draw(st.just(pairs[at][1]) | WRITTEN)))
            case "escape" if pairs and pairs[at][1].isascii():
                name, value = pairs[at]
                value = f'"{escaped(value[1:-1])}"' if re.fullmatch(r'"[^"\\]+"', value) else value
                pairs[at] = (f'"{escaped(json.loads(name))}"', value)
            case "order":
                pairs = draw(st.permutations(pairs))
            case _:
                pairs.insert(at, (json.dumps(draw(NAMES)), draw(WRITTEN)))
    comma, colon = draw(st.sampled_from([(",", ":"), (" , ", " :\t"), ("\r\n,", ": ")] * 3 + [(";", ":"), (",,", "=")]))
    text = "{" + comma.join(name + colon + value for name, value in pairs) + "}"
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 4)) == 0 else data


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """The bytes with one place changed, or the whole in another encoding."""
    at = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(["insert", "delete", "change", "cut", "encode", "wrap"])):
        case "insert":
            return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at:]
        case "delete":
            return data[:at] + data[at + 1 :]
        case "change":
            return data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "encode":
            text = data.decode("utf-8", "replace")
            return text.encode(draw(st.sampled_from(["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "utf-7"])))
    before, after = draw(st.sampled_from([(b"[", b"]"), (b" ", b"\n"), (b"", b"\0"), (b"", b"{}"), (b'"', b'"')]))
    return before + data + after


@st.composite
def bodies(draw: Any, world: World, what: str) -> bytes:
    """A request in which only `what` is hostile: header, claims, token or body."""
    pair = draw(st.sampled_from([*world.pairs.values()]))
    header, claims = (draw(spelled(m)) if what == name else json.dumps(m).encode() for name, m in PARTS)
    for mark, value in ((b"$kid", pair.kid), (b"$alg", pair.alg)):
        header, claims = header.replace(mark, value.encode()), claims.replace(mark, value.encode())
    code = forge.sign(pair, header, claims)
    if what == "token":
        code = draw(respelled(code))
    body = {"code": code, "secretKey": SECRET, "applicationId": APPLICATION_ID}
    return draw(spelled(body)) if what == "body" else json.dumps(body).encode()


PARTS = (("header", HEADER), ("claims", CLAIMS))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@st.composite
def respelled(draw: Any, code: str) -> str:
    """A token with its parts or its base64url changed."""
    parts = code.split(".")
    at = draw(st.integers(0, 2))
    part = parts[at]
    match draw(
        st.sampled_from(["spare", "pad", "other", "empty", "drop", "again", "order", "character", "space", "sign"])
    ):
        case "spare":
            parts[at] = part[:-1] + ALPHABET[ALPHABET.index(part[-1]) ^ draw(st.integers(0, 15))]
        case "pad":
            parts[at] += "=" * draw(st.integers(1, 3))
        case "other":
            parts[at] = part.replace("-", "+").replace("_", "/")
        case "empty":
            parts[at] = ""
        case "drop":
            del parts[at]
        case "again":
            parts.insert(at, part)
        case "order":
            parts = draw(st.permutations(parts))
        case "character":
            n = draw(st.integers(0, len(part)))
            parts[at] = part[:n] + draw(st.text(st.characters(codec=None), max_size=2)) + part[n:]
        case "space":
            return draw(st.sampled_from([" {}", "{}\n", "Bearer {}", "{}.", ".{}", '"{}"', "{}#", "{}\0"])).format(code)
        case "sign":
            parts[2] = forge.b64(draw(st.binary(max_size=80) | st.sampled_from([bytes(64), b"\xff" * 64, b"0" * 71])))
    return ".".join(parts)


@pytest.mark.parametrize("what", ["header", "claims", "token", "body"])
def test_whatever_is_changed_in_a_request_the_answer_is_the_contracts(world: World, what: str):
    @many
    @given(bodies(world, what))
    def judge(body: bytes) -> None:
        members = world.judge(body)
        event(members.get("error_description", "accepted"))

    judge()


@many
@given(st.text(st.characters(codec=None), max_size=300) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_whatever_text_comes_as_a_token_the_answer_is_the_contracts(world: World, code: str):
    assume(code)
    body = {"code": code, "secretKey": SECRET, "applicationId": APPLICATION_ID}
    assert world.judge(json.dumps(body).encode())["error"] == "invalid_token"


@many
@given(
    st.binary(max_size=300)
    | st.text(max_size=200).map(str.encode)
    | WRITTEN.map(lambda t: t.encode("utf-8", "replace"))
)
def test_whatever_bytes_come_as_a_body_the_answer_is_the_contracts(world: World, body: bytes):
    assert world.judge(body)["error"] == "invalid_request"


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"content-type", b"content-encoding", b"transfer-encoding", b"accept", b"x-http-method-override"]
        ),
        st.sampled_from(
            [b"application/json", b"Application/JSON;charset=utf-16", b"text/plain", b"gzip", b"identity", b""]
        )
        | st.binary(max_size=12),
    ),
    max_size=3,
)
METHODS = st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "post", "POST "]) | st.text(max_size=8)
PATHS = st.sampled_from(["/profile/", "//profile", "/profile\n", "/PROFILE", "/profile/..", "", "*"]) | st.text(
    max_size=12
)


@many
@given(HEADERS, METHODS | st.just("POST"), PATHS | st.just("/profile"))
def test_whatever_method_path_and_headers_come_the_answer_is_the_contracts(world: World, headers, method, path):
    assume(path not in ("/healthz", "/readyz", "/openapi.json"))
    answer = world.ask(b"{}", method, path, headers)
    contract.check(answer, allow="POST")
    typed = [v for n, v in headers if n == b"content-type"]
    plain = len(typed) == 1 and typed[0].split(b";")[0].strip().lower() == b"application/json"
    coded = any(n.endswith(b"encoding") and v.strip().lower() not in (b"", b"identity", b"chunked") for n, v in headers)
    if path != "/profile":
        assert answer.status == 404
    elif method != "POST":
        assert answer.status == 405
    elif coded or not plain:
        assert answer.status == 415


GOOD = Raw(
    401,
    [
        (b"content-type", b"application/json"),
        (b"content-length", b"69"),
        (b"cache-control", b"no-store"),
        (b"www-authenticate", b'Bearer error="invalid_token", error_description="unknown key ID (kid)"'),
    ],
    b'{"error":"invalid_token","error_description":"unknown key ID (kid)"}',
)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GOOD._replace(status=403), id="status"),
        pytest.param(GOOD._replace(status=200), id="error-as-success"),
        pytest.param(GOOD._replace(headers=GOOD.headers[:3]), id="no-challenge"),
        pytest.param(GOOD._replace(headers=[*GOOD.headers, (b"server", b"x")]), id="one-header-more"),
        pytest.param(GOOD._replace(body=GOOD.body[:-1] + b" "), id="not-json"),
        pytest.param(GOOD._replace(body=GOOD.body.replace(b"(kid)", b"(k1d)")), id="an-echo"),
    ],
)
def test_the_judge_sees_an_answer_that_breaks_the_contract(answer: Raw):
    right = [(n, b"%d" % len(GOOD.body) if n == b"content-length" else v) for n, v in GOOD.headers]
    assert contract.check(GOOD._replace(headers=right))["error"] == "invalid_token"
    with pytest.raises((AssertionError, KeyError, ValueError)):
        contract.check(answer._replace(headers=right if answer.headers == GOOD.headers else answer.headers))


@pytest.mark.parametrize(
    ("module", "name", "mistake"),
    [
        pytest.param("verifier.core.tokens", "CLAIM_CHECKS", (), id="no-limits"),
        pytest.param("verifier.core.tokens", "loads_object", json.loads, id="lenient-json"),
        pytest.param(
            "verifier.core.tokens", "b64url_decode", lambda t: contract.lenient_base64(t), id="lenient-base64url"
        ),
        pytest.param("verifier.server.endpoints", "loads_object", json.loads, id="lenient-body"),
    ],
)
def test_the_judge_sees_a_server_that_is_too_lenient(world: World, monkeypatch, module: str, name: str, mistake: Any):
    monkeypatch.setattr(f"{module}.{name}", mistake)
    pair = world.pairs["EdDSA"]
    members = {"alg": "EdDSA", "kid": pair.kid, "typ": "at+jwt"}
    twice = json.dumps(CLAIMS)[:-1] + ',"sub":"42"}'
    long = forge.token(pair, members, CLAIMS | {"email": "x" * 321})
    good = forge.token(pair, members, CLAIMS)
    wrong = {
        "CLAIM_CHECKS": long,
        "b64url_decode": good + "=",
        "loads_object": forge.sign(pair, json.dumps(members), twice),
    }
    body = json.dumps({"code": wrong[name], "secretKey": SECRET, "applicationId": APPLICATION_ID})
    if module == "verifier.server.endpoints":
        body = json.dumps({"code": good, "secretKey": SECRET, "applicationId": APPLICATION_ID})[:-1] + ',"code":"x"}'
        body = body.replace('"x"', json.dumps(good))
    with pytest.raises(AssertionError, match="the oracle says otherwise"):
        world.judge(body.encode())


@pytest.mark.parametrize("target", sorted(run.TARGETS))
def test_no_input_of_the_fuzz_corpus_is_a_finding(world: World, target: str):
    judge = targets(world)[target]
    inputs = seeds.corpus(target)
    assert inputs
    for data in inputs:
        judge(data)
