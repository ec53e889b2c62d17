"""HTTP: whole answers, status and headers and body."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from tests.conftest import APPLICATION_ID, JSON, NOW, SECRET, Answer
from verifier._version import __version__
from verifier.errors import (
    ConfigError,
    InternalError,
    InvalidClient,
    InvalidRequest,
    Reason,
    ServiceUnavailableError,
)
from verifier.server import endpoints
from verifier.server import endpoints as app_module
from verifier.server.asgi import json_bytes
from verifier.server.endpoints import Service, create_app
from verifier.server.settings import MAX_BODY_BYTES, Settings


def answer(status: int, body: Any, **more: str) -> Answer:
    """The whole answer: these headers and no others."""
    length = str(len(json.dumps(body, separators=(",", ":"))))
    headers = {"content-type": "application/json", "content-length": length, "cache-control": "no-store"}
    return Answer(status, body, headers | {name.replace("_", "-"): value for name, value in more.items()})


def refusal(status: int, code: str, text: str, **more: str) -> Answer:
    if status == 401:
        more["www_authenticate"] = f'Bearer error="{code}", error_description="{text}"'
    return answer(status, {"error": code, "error_description": text}, **more)


def test_a_good_token_gives_the_profile(ask, body):
    assert ask(body) == answer(200, {"_id": "42", "email": "ann@example.com", "username": "ann"})


def test_an_absent_claim_is_left_out(ask, body, issue):
    assert ask(body | {"code": issue(email=None, username="")}) == answer(200, {"_id": "42"})


def test_members_escs_may_add_are_ignored(ask, body):
    assert ask(body | {"version": 2, "more": {"x": [1e300, None]}}).status == 200


NO_CLIENT = refusal(401, "invalid_client", "unknown application or wrong secret")


@pytest.mark.parametrize(
    "changes",
    [
        {"secretKey": SECRET + "x"},
        {"secretKey": SECRET[:-1]},
        {"secretKey": "Ω"},
        {"secretKey": "\ud800"},
        {"applicationId": "other"},
        {"applicationId": "\ud800"},
        {"applicationId": "other", "secretKey": "x"},
        {"secretKey": "x", "code": "not looked at"},
    ],
)
def test_an_unknown_application_and_a_wrong_secret_are_one_answer(ask, body, changes):
    assert ask(body).status == 200
    assert ask(body | changes) == NO_CLIENT


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": NOW - 30, "iat": NOW - 330}, "token has expired (exp)"),
        ({"aud": "other"}, "audience (aud) does not include the applicationId"),
    ],
)
def test_a_refused_token_names_its_rule(ask, body, issue, changes, text):
    assert ask(body | {"code": issue(**changes)}) == refusal(401, "invalid_token", text)


@pytest.mark.parametrize("code", ["x", "\ud800", "Bearer x.y.z", "null"])
def test_a_code_that_is_no_token_is_a_refused_token(ask, body, code):
    assert ask(body | {"code": code}).body["error"] == "invalid_token"


@pytest.mark.parametrize("name", ["code", "secretKey", "applicationId"])
@pytest.mark.parametrize("value", ["", None, 1, True, ["x"], {"x": "y"}, "absent"])
def test_each_field_must_be_a_non_empty_string(ask, body, name, value):
    members = {k: v for k, v in (body | {name: value}).items() if v != "absent"}
    assert ask(members) == refusal(400, "invalid_request", f"{name} must be a non-empty string")


GOOD = '{"code": "x", "secretKey": "y", "applicationId": "z"}'


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"", "the body is empty", id="empty"),
        pytest.param(b"code=x", "the body is not valid JSON", id="form"),
        pytest.param(GOOD.encode() + b"}", "the body is not valid JSON", id="trailing"),
        pytest.param(GOOD.replace('"x"', "NaN").encode(), "the body is not valid JSON", id="nan"),
        pytest.param(GOOD.replace('"x"', '"\n"').encode(), "the body is not valid JSON", id="control-character"),
        pytest.param(b"\xef\xbb\xbf" + GOOD.encode(), "the body is not valid JSON", id="byte-order-mark"),
        pytest.param(GOOD.encode("utf-16"), "the body is not UTF-8", id="utf-16"),
        pytest.param(GOOD.encode("utf-32-le"), "the body is not valid JSON", id="utf-32"),
        pytest.param(GOOD.replace("x", "é").encode("latin-1"), "the body is not UTF-8", id="latin-1"),
        pytest.param(b"[" + GOOD.encode() + b"]", "the body is not a JSON object", id="list"),
        pytest.param(b"null", "the body is not a JSON object", id="null"),
        pytest.param(GOOD.replace("{", '{"code": "w", ').encode(), "duplicate key in JSON body", id="twice"),
        pytest.param(GOOD.replace("{", '{"c\\u006fde": "w", ').encode(), "duplicate key in JSON body", id="escaped"),
        pytest.param(
            b'{"a":' * 2500 + b"1" + b"}" * 2500,
            "JSON nesting too deep or too many objects in the body",
            id="deep-objects",
        ),
        pytest.param(b"[" * 16_384, "JSON nesting too deep or too many objects in the body", id="deep-lists"),
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused(ask, raw, text):
    assert ask(GOOD.encode()) == NO_CLIENT
    assert ask(raw) == refusal(400, "invalid_request", text)


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;x",
        " application/json ;",
    ],
)
def test_the_content_type_is_json_in_any_case_with_any_parameters(ask, body, value):
    assert ask(body, headers={"content-type": value}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/json-patch+json"},
        {"content-type": "application/json, application/json"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_content_type_is_refused(ask, body, headers):
    text = "Content-Type must be application/json"
    assert ask(body, headers=headers) == refusal(415, "invalid_request", text)


@pytest.mark.parametrize("header", ["content-encoding", "transfer-encoding"])
@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, chunked", "x"])
def test_an_encoded_body_is_refused(ask, body, header, coding):
    assert ask(body, headers=JSON | {"content-encoding": "identity", "transfer-encoding": "chunked"}).status == 200
    text = "Content-Encoding is not supported"
    assert ask(body, headers=JSON | {header: coding}) == refusal(415, "invalid_request", text)


def padded(body: dict[str, Any], size: int) -> bytes:
    raw = json.dumps(body).encode()
    return raw + b" " * (size - len(raw))


def test_the_largest_body_passes_and_one_byte_more_does_not(ask, body):
    too_large = refusal(413, "invalid_request", "request body too large (limit 16384 bytes)", connection="close")
    assert ask(padded(body, MAX_BODY_BYTES)).status == 200
    assert ask(padded(body, MAX_BODY_BYTES + 1)) == too_large
    assert ask(padded(body, 400), headers=JSON | {"content-length": str(MAX_BODY_BYTES + 1)}) == too_large
    assert ask(padded(body, MAX_BODY_BYTES), headers=JSON | {"content-length": str(MAX_BODY_BYTES)}).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "POS", "post"])
def test_another_method_is_rejected_with_the_allowed_ones(ask, body, method):
    assert ask(body, method=method) == refusal(405, "invalid_request", "method not allowed (use POST)", allow="POST")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json"])
def test_what_is_read_is_only_read(ask, path):
    text = "method not allowed (use GET or HEAD)"
    assert ask(method="GET", path=path).status == 200
    assert ask(method="HEAD", path=path).status == 200
    assert ask(method="POST", path=path) == refusal(405, "invalid_request", text, allow="GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/", "/profile/", "/profile\n", "//profile", "/Profile", "/profile/x", "", "/prof%69le"]
)
def test_another_path_is_not_found_and_not_redirected(ask, body, path):
    assert ask(body).status == 200
    assert ask(body, path=path) == refusal(404, "invalid_request", "not found")


def test_alive(ask):
    assert ask(method="GET", path="/healthz") == answer(200, {"status": "alive"})


def test_ready_with_the_key_set_digest(ask, keyring):
    expected = {
        "status": "ready",
        "usable_keys": 3,
        "applications": 1,
        "key_set_digest": keyring.digest,
        "last_read_age_s": 0.0,
        "problems": 0,
        "hung_reads": 0,
        "undone_revocations": 0,
        "settings": {"max_lifetime_s": 300, "leeway_s": 30, "max_staleness_s": 300},
        "version": __version__,
    }
    found = ask(method="GET", path="/readyz")
    assert 0 <= found.body["last_read_age_s"] < 10
    expected["last_read_age_s"] = found.body["last_read_age_s"]
    assert found == answer(200, expected)


def test_not_ready_without_a_key_that_verifies_now(environment, keys, key_files, request):
    for name, data in key_files.items():
        late = json.loads(data) | {"nbf": NOW + 31}
        (keys / "public" / name).write_text(json.dumps(late))
    ready = request.getfixturevalue("ask")(method="GET", path="/readyz")
    assert (ready.status, ready.body["status"], ready.body["usable_keys"]) == (503, "not ready", 0)


def test_the_jwks_holds_the_keys_that_verify_now_or_will(environment, keys, key_files, keyring, request):
    changes = [{"nbf": NOW + 1000}, {"exp": NOW}, {"revoked": {"revoked_at": NOW, "reason": "lost"}}]
    kept = []
    for (name, data), change in zip(key_files.items(), changes, strict=True):
        members = json.loads(data) | change
        (keys / "public" / name).write_text(json.dumps(members))
        kept += [members] if "nbf" in change else []
    jwks = request.getfixturevalue("ask")(method="GET", path="/.well-known/jwks.json")
    assert jwks.body["keys"] == kept
    assert jwks.body["key_set_digest"] != keyring.digest


def test_no_answer_has_a_private_member(ask):
    for key in ask(method="GET", path="/.well-known/jwks.json").body["keys"]:
        assert key.keys() <= {"kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "iat", "nbf"}


def test_a_bad_key_file_stops_the_start(environment, keys):
    Settings.from_environment(environment)
    (keys / "public" / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match=r"(?m)public/bad\.json: is not valid JSON$"):
        create_app(Settings.from_environment(environment))


def test_a_weak_secret_is_warned_about_at_the_start(environment, told):
    service = Service(Settings.from_environment(environment | {"VERIFIER_SECRET_KEY": "short"}))
    asyncio.run(lived(service))
    text = f"secret 1 of application {APPLICATION_ID} is weak: shorter than 16 characters"
    start, problem, stop = told()
    assert (start["event"], stop["event"]) == ("start", "stop")
    assert problem == {"event": "config_problem", "level": "warning", "problem": text}


async def lived(service: Service, until: Callable[[], bool] = lambda: True) -> None:
    """Start the application, and stop it when something has happened."""
    async with service.lifespan(None), asyncio.timeout(10):
        while not until():
            await asyncio.sleep(0.01)


def run(app: Any, scope: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Drive the application by hand; after the last message the client stays silent."""
    sent: list[Message] = []
    queue = iter(messages)

    async def receive() -> Message:
        for message in queue:
            return message
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


SCOPE = {"type": "http", "method": "POST", "path": "/profile", "headers": [(b"content-type", b"application/json")]}


def test_a_body_that_does_not_come_is_refused_in_time(environment):
    app = create_app(replace(Settings.from_environment(environment), body_timeout_s=0.05))
    sent = run(app, SCOPE, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"timed out reading the request body (0.05 s)" in sent[1]["body"]


def test_a_long_body_is_refused_as_soon_as_it_is_too_long(environment):
    chunk = {"type": "http.request", "body": b"x" * 10_000, "more_body": True}
    sent = run(create_app(Settings.from_environment(environment)), SCOPE, [chunk, chunk])
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert (
        sent[1]["body"]
        == b'{"error":"invalid_request","error_description":"request body too large (limit 16384 bytes)"}'
    )


def test_a_client_that_hangs_up_is_not_answered(environment, told):
    app = create_app(Settings.from_environment(environment))
    partial = {"type": "http.request", "body": b"{", "more_body": True}
    assert run(app, SCOPE, [partial, {"type": "http.disconnect"}]) == []
    assert [(line["level"], line["outcome"], line["status"]) for line in told()] == [("info", "client_disconnected", 0)]


def test_a_body_in_pieces_is_one_body(environment):
    pieces = [{"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in GOOD.encode()]
    last = {"type": "http.request", "more_body": False}
    sent = run(create_app(Settings.from_environment(environment)), SCOPE, [*pieces, last])
    assert sent[0]["status"] == 401


def test_a_websocket_is_closed(environment):
    scope = {"type": "websocket", "path": "/profile", "headers": []}
    sent = run(create_app(Settings.from_environment(environment)), scope, [{"type": "websocket.connect"}])
    assert [message["type"] for message in sent] == ["websocket.close"]


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63) | st.lists(st.text())))
def test_answers_are_compact_json_in_ascii(value):
    assert json_bytes(value) == json.dumps(value, separators=(",", ":")).encode("ascii")


def test_a_bug_is_answered_and_logged_without_what_was_sent(environment, monkeypatch, told):
    app = create_app(Settings.from_environment(environment))

    def bug(_: bytes) -> None:
        raise RuntimeError("canary: the whole body")

    monkeypatch.setattr(app_module, "parse_body", bug)
    sent = run(app, SCOPE, [{"type": "http.request", "body": b"{}", "more_body": False}])
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"]) == {"error": "server_error", "error_description": "internal error"}
    _, found, request = told()
    assert re.fullmatch(r".*test_endpoints\.py:\d+", found.pop("where"))
    assert found == {"event": "internal_error", "level": "error", "error": "RuntimeError"}
    assert (request["level"], request["outcome"], request["status"]) == ("error", "server_error", 500)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(GOOD.encode()))
def test_any_body_has_an_answer_of_the_contract(ask, raw):
    found = ask(raw)
    assert found.status in (400, 401)
    assert found.body.keys() == {"error", "error_description"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.fixed_dictionaries({name: st.text(st.characters(codec=None)) for name in ("code", "secretKey", "applicationId")})
)
def test_any_three_fields_have_an_answer_of_the_contract(ask, fields):
    assert ask(fields).status in (400, 401)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"iat": NOW + 30.3, "exp": NOW + 330}, 200),
        ({"iat": NOW + 30.5, "exp": NOW + 330}, 401),
        ({"iat": NOW - 300, "exp": NOW - 29.5}, 200),
        ({"iat": NOW - 300, "exp": NOW - 29.7}, 401),
    ],
)
def test_fractions_of_a_second_count_on_both_sides(environment, issue, changes, status, monkeypatch):
    monkeypatch.setattr(endpoints.time, "time", lambda: NOW + 0.4)
    raw = json.dumps({"code": issue(**changes), "secretKey": SECRET, "applicationId": APPLICATION_ID}).encode()
    app = create_app(Settings.from_environment(environment))
    assert run(app, SCOPE, [{"type": "http.request", "body": raw, "more_body": False}])[0]["status"] == status


def test_openapi_names_every_status_and_path(ask):
    document = ask(method="GET", path="/openapi.json").body
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {"/profile", "/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json"}
    profile = document["paths"]["/profile"]["post"]["responses"].keys()
    assert profile == {"200"} | {str(reason.status) for reason in Reason}


def documented_errors(document: dict[str, Any], path: str, method: str) -> dict[str, tuple[int, str, str]]:
    """Status, code and description of the examples of an operation, by reason."""
    found = {}
    for status, response in document["paths"][path][method]["responses"].items():
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        assert response["headers"]["Cache-Control"] == {"$ref": "#/components/headers/NoStore"}
        for reason, example in response["content"]["application/json"].get("examples", {}).items():
            assert reason not in found
            found[reason] = int(status), example["value"]["error"], example["value"]["error_description"]
    return found


CODES = {401: "invalid_token", 500: InternalError.code, 503: ServiceUnavailableError.code}


def test_openapi_documents_every_reason_with_its_status_its_code_and_its_text(ask):
    document = ask(method="GET", path="/openapi.json").body
    documented = documented_errors(document, "/profile", "post")
    assert documented.keys() == set(Reason)
    for reason in Reason:
        code = InvalidClient.code if reason is Reason.CLIENT_REJECTED else CODES.get(reason.status, InvalidRequest.code)
        pattern = re.sub(r"\\{\w+\\}", r"[\\w ,]+", re.escape(reason.text))
        assert documented[reason][:2] == (reason.status, code), reason
        assert re.fullmatch(pattern, documented[reason][2]), reason
    codes = {code for _, code, _ in documented.values()}
    assert set(document["components"]["schemas"]["Error"]["properties"]["error"]["enum"]) == codes


def test_openapi_documents_for_other_paths_what_the_connection_can_reject(ask):
    document = ask(method="GET", path="/openapi.json").body
    profile = documented_errors(document, "/profile", "post")
    connection = {"not_found", "method_not_allowed", "malformed_request", "header_timeout", "framing_too_large"}
    connection |= {"headers_too_large", "headers_too_many", "internal_error"}
    unavailable = {"too_many_connections", "shutting_down"}
    expected = {
        "/healthz": connection | unavailable,
        "/readyz": connection,  # its 503 has another body as well
        "/.well-known/jwks.json": connection | unavailable | {"keys_stale"},
        "/openapi.json": connection | unavailable,
    }
    for path, reasons in expected.items():
        found = documented_errors(document, path, "get")
        assert found == {reason: profile[reason] for reason in reasons}


def check_schema(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str = "") -> None:
    """Check a response against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), path
    if "enum" in schema:
        assert value in schema["enum"], path
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys() <= schema.get("properties", {}).keys(), path
        for name, inner in value.items():
            check_schema(inner, schema["properties"][name], schemas, f"{path}/{name}")


@pytest.mark.parametrize("ready", [True, False])
def test_readiness_agrees_with_its_schema(environment, keys, key_files, request, ready):
    if not ready:
        for name, data in key_files.items():
            (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": NOW + 31}))
    ask = request.getfixturevalue("ask")
    document = ask(method="GET", path="/openapi.json").body
    found = ask(method="GET", path="/readyz")
    schema = document["components"]["schemas"]["Readiness"]
    assert found.status == (200 if ready else 503)
    assert list(found.body) == schema["required"] == list(schema["properties"])
    check_schema(found.body, schema, document["components"]["schemas"])
    assert found.headers["cache-control"] == "no-store"
