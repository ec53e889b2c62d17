"""The log: one line per request from an allow-list, one form for every line, and no request that waits for it."""

import asyncio
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.conftest import APPLICATION_ID, NOW, SECRET, Server, free_port
from verifier.errors import InvalidRequest
from verifier.server import log
from verifier.server.endpoints import Verifier
from verifier.server.log import Output, Request, Telemetry
from verifier.server.settings import Settings

FIELDS = {"event", "level", "outcome", "status", "ms", "path", "reason", "application", "slot", "kid", "age_s"}


def request_line(told):
    line = told()[-1]
    assert line["event"] == "request"
    assert line.keys() <= FIELDS
    assert 0 <= line["ms"] < 10_000
    return {name: value for name, value in line.items() if name not in ("event", "ms")}


def test_a_sign_in_is_one_line(ask, body, pairs, told):
    assert ask(body).status == 200
    assert request_line(told) == {
        "level": "info",
        "outcome": "ok",
        "status": 200,
        "path": "/profile",
        "application": APPLICATION_ID,
        "slot": 1,
        "kid": pairs["ES256"].kid,
    }
    assert told() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"secretKey": "wrong"},
            {"outcome": "invalid_client", "status": 401, "application": APPLICATION_ID},
            id="wrong-secret",
        ),
        pytest.param({"applicationId": "canary"}, {"outcome": "invalid_client", "status": 401}, id="unknown"),
        pytest.param({"code": ""}, {"outcome": "invalid_request", "status": 400}, id="no-code"),
        pytest.param(
            {"code": "canary"},
            {"outcome": "invalid_token", "status": 401, "application": APPLICATION_ID, "slot": 1},
            id="no-token",
        ),
    ],
)
def test_a_refusal_is_one_line_and_no_error(ask, body, told, changes, expected):
    assert ask(body).status == 200
    answer = ask(body | changes)
    reason = {"level": "info", "path": "/profile", "reason": answer.body["error_description"]}
    assert request_line(told) == expected | reason


def test_a_refused_token_names_its_key_only_when_it_is_loaded(ask, body, issue, pairs, told):
    ask(body | {"code": issue(exp=NOW - 100, iat=NOW - 200)})
    assert request_line(told)["kid"] == pairs["ES256"].kid
    ask(body | {"code": issue(header={"kid": "canary"})})
    assert "kid" not in request_line(told)


def test_a_token_refused_for_its_time_tells_its_age(ask, body, issue, told):
    for iat, age_s in ((NOW - 400, 400), (NOW + 120, -120)):
        ask(body | {"code": issue(iat=iat, exp=iat + 300)})
        assert request_line(told)["age_s"] == age_s
    ask(body | {"code": issue(iat=NOW, exp=NOW - 100)})
    assert request_line(told)["age_s"] == 0
    ask(body | {"code": issue(iss="other")})
    assert "age_s" not in request_line(told)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_what_is_only_read_is_told_at_debug(environment, request, told, path, level):
    environment["VERIFIER_LOG_LEVEL"] = level
    assert request.getfixturevalue("ask")(method="GET", path=path).status == 200
    assert [(line["level"], line["path"]) for line in told()] == ([("debug", path)] if level == "debug" else [])


def test_another_path_is_told_without_the_path(ask, told):
    ask(path="/canary")
    assert request_line(told) == {
        "level": "info",
        "outcome": "invalid_request",
        "status": 404,
        "reason": "not found",
    }


def test_not_ready_is_an_error(environment, keys, key_files, request, told):
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": NOW + 31}))
    request.getfixturevalue("ask")(method="GET", path="/readyz")
    assert request_line(told) == {"level": "error", "outcome": "ok", "status": 503, "path": "/readyz"}


def test_nothing_that_was_sent_is_told(ask, body, issue, capfd):
    canaries = [
        body | {"code": "canary"},
        body | {"secretKey": "canary"},
        body | {"applicationId": "canary"},
        body | {"code": issue(header={"kid": "canary", "canary": 1})},
        body | {"code": issue(iss="canary", sub="canary")},
        body | {"code": issue(sub="canary", email="canary@example.com", username="canary"), "canary": 1},
    ]
    for sent in canaries:
        ask(sent)
    ask(b"canary", path="/canary", headers={"canary": "canary"})
    ask(body, method="CANARY")
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == len(canaries) + 2
    assert "canary" not in (out + err).lower()
    assert SECRET not in out


def test_start_and_stop_say_what_runs(environment, told, pairs, keyring, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    verifier = Verifier(Settings.from_environment(environment))

    async def live() -> None:
        async with verifier.lifespan(None):
            pass

    asyncio.run(live())
    start, stop = told()
    assert (start.pop("pid"), stop.pop("pid")) == (os.getpid(), os.getpid())
    assert stop == {"event": "stop", "level": "info"}
    assert (start["event"], start["level"], start["key_set_digest"]) == ("start", "info", keyring.digest)
    assert start["applications"] == {APPLICATION_ID: 1}
    assert start["keys"] == {
        pairs["RS256"].kid: "retiring",
        pairs["EdDSA"].kid: "retiring",
        pairs["ES256"].kid: "current",
    }
    assert start["settings"]["issuer"] == environment["VERIFIER_ISSUER"]
    assert SECRET not in json.dumps(start)


def test_the_start_warns_of_files_that_are_mounted_by_themselves(environment, told, monkeypatch):
    environment["VERIFIER_SECRET_KEY_FILE"] = environment["VERIFIER_KEYS"] + "/secret"
    Path(environment["VERIFIER_SECRET_KEY_FILE"]).write_text(environment.pop("VERIFIER_SECRET_KEY"))
    monkeypatch.setattr("verifier.server.reload.bind_mounted_files", lambda path: [f"{path}/file"])
    verifier = Verifier(Settings.from_environment(environment))

    async def live() -> None:
        async with verifier.lifespan(None):
            pass

    asyncio.run(live())
    problems = [line for line in told() if line["event"] == "problem"]
    keys = environment["VERIFIER_KEYS"]
    assert problems == [
        {
            "event": "problem",
            "level": "warning",
            "problem": f"{path}/file: is mounted by itself (subPath): changes to it never arrive",
        }
        for path in (f"{keys}/public", f"{keys}/secret")
    ]


def test_hangup_reloads_now(environment, told, keyring, monkeypatch):
    monkeypatch.setattr("verifier.server.reload.RELOAD_INTERVAL_S", 60)
    verifier = Verifier(Settings.from_environment(environment))

    async def hang_up() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async with verifier.lifespan(None), asyncio.timeout(10):
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGHUP)
            while sum(line["event"] == "reload" for line in found) < 2:
                await asyncio.sleep(0.01)
                found += told()
        return found

    before = signal.getsignal(signal.SIGHUP)
    try:
        found = asyncio.run(hang_up())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [line for line in found if line["event"] == "reload"] == [
        {"event": "reload", "level": "info", "what": "keys", "count": 3, "key_set_digest": keyring.digest},
        {"event": "reload", "level": "info", "what": "applications", "count": 1},
    ]


def test_a_reload_tells_its_problems(environment, keys, told):
    verifier = Verifier(Settings.from_environment(environment))
    name = b"\xff.json".decode("utf-8", "surrogateescape")
    (keys / "public" / name).write_text("{")
    verifier.refresh()
    reload, problem = told()
    assert (reload["event"], reload["count"]) == ("reload", 3)
    assert (problem["level"], problem["problem"]) == ("error", f"{keys}/public/{name}: is not valid JSON")


@pytest.fixture
def settings(environment):
    def settings(**changes: str) -> Settings:
        return Settings.from_environment(environment | {f"VERIFIER_{n.upper()}": v for n, v in changes.items()})

    return settings


def written(settings: Settings, request: Request) -> str:
    reading, writing = os.pipe()
    Telemetry(settings, Output(writing)).finish(request)
    os.close(writing)
    with open(reading) as file:
        return file.read()


def test_the_least_level_is_a_setting(settings):
    request = Request("/profile")
    assert written(settings(log_level="info"), request)
    assert not written(settings(log_level="warning"), request)
    request["level"] = "debug"
    assert written(settings(log_level="debug"), request)
    assert not written(settings(log_level="info"), request)


def test_text_is_for_people(settings):
    request = Request("/profile")
    request.record_error(InvalidRequest("the body is not valid JSON"))
    line = written(settings(log_format="text"), request)
    assert "request" in line
    assert "reason='the body is not valid JSON'" in line
    assert not line.startswith("{")
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_the_format_is_text_on_a_terminal_and_json_elsewhere(settings, monkeypatch, terminal, is_json):
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    assert written(settings(), Request()).startswith("{") == is_json
    assert written(settings(log_format="json"), Request()).startswith("{")


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time():
    reading, writing = os.pipe()
    output = Output(writing)
    line = b"x" * 4095 + b"\n"
    for _ in range(100):
        output.write(line)
    assert 0 < output.dropped < 100
    kept = 100 - output.dropped
    assert os.read(reading, 10_000_000) == line * kept
    os.close(reading)
    output.write(line)
    os.close(writing)
    output.write(line)
    assert output.dropped == 100 - kept + 2
    output.flush()


def test_the_lines_of_a_turn_of_the_loop_are_written_together(settings):
    blocks: list[bytes] = []
    later: list[Callable[[], None]] = []
    output = Output()
    output.write = blocks.append
    told = Telemetry(settings(log_format="json"), output)
    told.soon = later.append
    for number in range(100):
        told.finish(Request(f"/{number}"))
    assert (len(later), blocks) == (1, [])
    later[0]()
    assert [json.loads(line)["path"] for line in b"".join(blocks).splitlines()] == [f"/{n}" for n in range(100)]
    assert len(blocks) > 2
    assert all(len(block) <= 4096 < len(block) + len(following) for block, following in itertools.pairwise(blocks))
    told.flush()  # there is nothing left
    told.finish(Request("/last"))
    later[1]()
    assert len(blocks[-1].splitlines()) == 1


def test_threads_write_their_lines_one_after_the_other():
    reading, writing = os.pipe()
    output = Output(writing)

    def write(name):
        for number in range(1000):
            output.write(f"{name}-{number}\n")

    with ThreadPoolExecutor() as threads, open(reading) as lines:
        writers = [threads.submit(write, name) for name in "abc"]
        whole = threads.submit(lines.readlines)
        wait(writers)
        os.close(writing)
        found = whole.result()
    assert [writer.exception() for writer in writers] == [None] * 3
    assert len(found) == 3000 - output.dropped
    assert all(re.fullmatch(r"[abc]-\d+\n", line) for line in found)


@pytest.fixture
def root():
    """The logging of the standard library, put back afterwards."""
    logger = logging.getLogger()
    kept = logger.handlers[:], logger.level
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    logger.handlers[:], logger.level = kept


def test_lines_of_uvicorn_have_the_same_form(settings, told, root):
    root.handlers.clear()
    log.configure_logging(settings())
    logging.getLogger("uvicorn.error").info("Started %s", "x", extra={"color_message": "canary"})
    logging.getLogger("uvicorn.error").debug("canary")
    logging.getLogger("asyncio").error("Exception in callback\nhandle: canary")
    try:
        raise RuntimeError("canary")
    except RuntimeError as exc:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=exc)
    first, second, third = told()
    assert first == {"event": "Started x", "level": "info", "logger": "uvicorn.error"}
    assert second == {"event": "Exception in callback", "level": "error", "logger": "asyncio"}
    assert third.pop("where").rpartition(":")[0] == __file__
    assert third == {
        "event": "Exception in ASGI application",
        "level": "error",
        "logger": "uvicorn.error",
        "error": "RuntimeError",
    }


def test_an_exception_that_was_never_raised_comes_from_nowhere(settings, told):
    Telemetry(settings()).bug(RuntimeError("canary"))
    assert told() == [{"event": "bug", "level": "error", "error": "RuntimeError", "where": "?"}]


def test_every_line_of_the_server_is_json(server, tmp_path):
    server.ask(b"{")
    assert server.stop() == 0
    found = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    assert all({"time", "level", "event"} <= line.keys() for line in found)
    assert [line["event"] for line in found if line["event"] in ("start", "request", "stop")] == [
        "start",
        "request",
        "stop",
    ]


def test_a_reader_of_the_log_that_leaves_takes_no_sign_in_with_it(environment, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "verifier", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE)
    assert b'"start"' in process.stdout.readline() + process.stdout.readline() + process.stdout.readline()
    process.stdout.close()
    server = Server(port, process)
    while True:
        try:
            assert server.ask(b"{").status == 400
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    assert server.ask(b"{").status == 400
    assert server.stop() == 0
