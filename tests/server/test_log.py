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
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import APPLICATION_ID, NOW, SECRET, Server, free_port
from verifier.core.keyring import KeyState
from verifier.errors import InvalidRequest, Reason
from verifier.server import log
from verifier.server.endpoints import Service
from verifier.server.log import AccessLogEntry, NonBlockingWriter, Telemetry
from verifier.server.settings import Settings

keys = conftest.keys  # those of the frozen clock
FIELDS = {
    "event",
    "level",
    "outcome",
    "status",
    "duration_ms",
    "path",
    "reason",
    "application",
    "slot",
    "kid",
    "token_age_s",
}


def request_line(told):
    line = told()[-1]
    assert line["event"] == "request"
    assert line.keys() <= FIELDS
    assert 0 <= line["duration_ms"] < 10_000
    return {name: value for name, value in line.items() if name not in ("event", "duration_ms")}


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
    [reason] = [reason for reason in Reason if reason.text == answer.body["error_description"]]
    reason = {"level": "info", "path": "/profile", "reason": reason.value}
    assert request_line(told) == expected | reason


def test_a_refused_token_names_its_key_only_when_it_is_loaded(ask, body, issue, pairs, told):
    ask(body | {"code": issue(exp=NOW - 100, iat=NOW - 200)})
    assert request_line(told)["kid"] == pairs["ES256"].kid
    ask(body | {"code": issue(header={"kid": "canary"})})
    assert "kid" not in request_line(told)


def test_a_token_refused_for_its_time_tells_its_age(ask, body, issue, told):
    for iat, age_s in ((NOW - 400, 400), (NOW + 120, -120)):
        ask(body | {"code": issue(iat=iat, exp=iat + 300)})
        assert request_line(told)["token_age_s"] == age_s
    ask(body | {"code": issue(iat=NOW, exp=NOW - 100)})
    assert request_line(told)["token_age_s"] == 0
    ask(body | {"code": issue(iss="other")})
    assert "token_age_s" not in request_line(told)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_what_is_only_read_is_logged_at_debug(environment, request, told, path, level):
    environment["VERIFIER_LOG_LEVEL"] = level
    assert request.getfixturevalue("ask")(method="GET", path=path).status == 200
    found = [(line["level"], line["path"]) for line in told() if line["event"] == "request"]
    assert found == ([("debug", path)] if level == "debug" else [])


def test_another_path_is_logged_without_the_path(ask, told):
    ask(path="/canary")
    assert request_line(told) == {
        "level": "info",
        "outcome": "invalid_request",
        "status": 404,
        "reason": "not_found",
    }


def test_not_ready_is_an_error(environment, keys, key_files, request, told):
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": NOW + 31}))
    request.getfixturevalue("ask")(method="GET", path="/readyz")
    assert request_line(told) == {"level": "error", "outcome": "ok", "status": 503, "path": "/readyz"}


def test_nothing_that_was_sent_is_logged(ask, body, issue, capfd):
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
    assert (
        len([line for line in out.splitlines() if '"event": "request"' in line or '"request"' in line])
        == len(canaries) + 2
    )
    assert "canary" not in (out + err).lower()
    assert SECRET not in out


def test_start_and_stop_say_what_runs(environment, told, pairs, keyring, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    service = Service(Settings.from_environment(environment))

    async def live() -> None:
        async with service.lifespan(None):
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
    service = Service(Settings.from_environment(environment))

    async def live() -> None:
        async with service.lifespan(None):
            pass

    asyncio.run(live())
    problems = [line for line in told() if line["event"] == "config_problem"]
    keys = environment["VERIFIER_KEYS"]
    assert problems == [
        {
            "event": "config_problem",
            "level": "warning",
            "problem": f"{path}/file: is bind-mounted as a single file (subPath); changes to it never arrive",
        }
        for path in (f"{keys}/public", f"{keys}/secret")
    ]


def test_hangup_reloads_now(environment, told, keyring, monkeypatch, tmp_path):
    (tmp_path / "secret").write_text(environment.pop("VERIFIER_SECRET_KEY"))
    environment["VERIFIER_SECRET_KEY_FILE"] = str(tmp_path / "secret")
    monkeypatch.setattr("verifier.server.reader.RELOAD_INTERVAL_S", 60)
    service = Service(Settings.from_environment(environment))

    async def hang_up() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async with service.lifespan(None), asyncio.timeout(10):
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGHUP)
            while sum(line["event"] == "reload" for line in found) < 2:
                await asyncio.sleep(0.01)
                found += told()
        return found

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `verifier serve` leaves it
    try:
        found = asyncio.run(hang_up())
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert sorted((line for line in found if line["event"] == "reload"), key=lambda line: line["kind"]) == [
        {"event": "reload", "level": "info", "kind": "applications", "count": 1},
        {"event": "reload", "level": "info", "kind": "keys", "count": 3, "key_set_digest": keyring.digest},
    ]


def test_a_reload_tells_its_problems(environment, keys, told):
    service = Service(Settings.from_environment(environment))
    name = b"\xff.json".decode("utf-8", "surrogateescape")
    (keys / "public" / name).write_text("{")
    service.files.start()
    found: list[dict[str, object]] = []
    while len(found) < 3:
        found += told()
    service.files.stop()
    _start, reload, problem = found
    assert (reload["event"], reload["count"]) == ("reload", 3)
    assert (problem["level"], problem["problem"]) == ("error", f"{keys}/public/\\udcff.json: is not valid JSON")


def test_what_comes_from_outside_is_escaped(settings):
    for log_format in ("json", "text"):
        reading, writing = os.pipe()
        Telemetry(settings(log_format=log_format), NonBlockingWriter(writing)).log.error(
            "config_problem", problem="keys/\x1b[2J\u202e\n.json: is not valid JSON", keys={"a": "\u200b"}
        )
        os.close(writing)
        with open(reading) as file:
            [line] = file.read().splitlines()
        assert line.isprintable()
        assert "keys/" in line
        assert "u202e" in line


def test_variables_that_are_no_settings_are_warned_about_at_the_start(environment, told):
    service = Service(Settings.from_environment(environment | {"VERIFIER_LEWAY": "canary"}))

    async def live() -> None:
        async with service.lifespan(None):
            pass

    asyncio.run(live())
    text = "VERIFIER_LEWAY is not a setting; did you mean VERIFIER_LEEWAY?"
    assert told()[1] == {"event": "config_problem", "level": "warning", "problem": text}


@pytest.fixture
def settings(environment):
    def settings(**changes: str) -> Settings:
        return Settings.from_environment(environment | {f"VERIFIER_{n.upper()}": v for n, v in changes.items()})

    return settings


def written(settings: Settings, request: AccessLogEntry) -> str:
    reading, writing = os.pipe()
    Telemetry(settings, NonBlockingWriter(writing)).record(request)
    os.close(writing)
    with open(reading) as file:
        return file.read()


def test_the_least_level_is_a_setting(settings):
    request = AccessLogEntry("/profile")
    assert written(settings(log_level="info"), request)
    assert not written(settings(log_level="warning"), request)
    request["level"] = "debug"
    assert written(settings(log_level="debug"), request)
    assert not written(settings(log_level="info"), request)


def test_text_is_for_people(settings):
    request = AccessLogEntry("/profile")
    request.record_error(InvalidRequest(Reason.BODY_NOT_JSON))
    line = written(settings(log_format="text"), request)
    assert "request" in line
    assert "reason=body_not_json" in line
    assert not line.startswith("{")
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_the_format_is_text_on_a_terminal_and_json_elsewhere(settings, monkeypatch, terminal, is_json):
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    assert written(settings(), AccessLogEntry()).startswith("{") == is_json
    assert written(settings(log_format="json"), AccessLogEntry()).startswith("{")


def test_a_pipe_that_is_not_read_loses_lines_and_no_time():
    reading, writing = os.pipe()
    output = NonBlockingWriter(writing)
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


def recorder(settings: Settings) -> tuple[Telemetry, list[bytes]]:
    """A log, and the blocks that it has written."""
    blocks: list[bytes] = []
    output = NonBlockingWriter()
    output.write = blocks.append  # type: ignore[method-assign, assignment]
    return Telemetry(settings, output), blocks


def paths(blocks: list[bytes]) -> list[str]:
    return [json.loads(line)["path"] for line in b"".join(blocks).splitlines()]


def test_the_lines_of_one_loop_iteration_are_written_together(settings):
    telemetry, blocks = recorder(settings(log_format="json"))

    async def serve() -> None:
        for number in range(100):
            telemetry.record(AccessLogEntry(f"/{number}"))
        assert blocks == []
        await asyncio.sleep(0)
        assert paths(blocks) == [f"/{n}" for n in range(100)]
        assert len(blocks) > 2
        assert all(len(block) <= 4096 < len(block) + len(after) for block, after in itertools.pairwise(blocks))
        telemetry.flush()  # there is nothing left
        telemetry.record(AccessLogEntry("/last"))
        await asyncio.sleep(0)
        assert len(blocks[-1].splitlines()) == 1

    asyncio.run(serve())
    assert paths(blocks[-1:]) == ["/last"]


def test_without_an_event_loop_a_line_is_written_at_once(settings):
    telemetry, blocks = recorder(settings(log_format="json"))
    telemetry.record(AccessLogEntry("/a"))
    assert paths(blocks) == ["/a"]


def test_a_loop_that_ends_too_soon_keeps_no_line_back(settings):
    telemetry, blocks = recorder(settings(log_format="json"))
    ended = asyncio.new_event_loop()
    ended.call_soon(telemetry.record, AccessLogEntry("/a"))
    ended.call_soon(ended.stop)
    ended.run_forever()
    ended.close()  # before it has called what was scheduled
    assert blocks == []

    async def serve() -> None:
        telemetry.record(AccessLogEntry("/b"))
        await asyncio.sleep(0)

    asyncio.run(serve())
    assert paths(blocks) == ["/a", "/b"]


def test_several_loops_lose_no_line(settings):
    telemetry, blocks = recorder(settings(log_format="json"))

    async def serve(name: str) -> None:
        for number in range(500):
            telemetry.record(AccessLogEntry(f"/{name}{number}"))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(asyncio.run, serve(name)) for name in "abc"]:
            done.result()
    assert sorted(paths(blocks)) == sorted(f"/{name}{number}" for name in "abc" for number in range(500))


def test_a_child_process_writes_its_own_lines_only(settings):
    reading, writing = os.pipe()
    output = NonBlockingWriter(writing)
    telemetry = Telemetry(settings(log_format="json"), output)

    async def serve() -> int:
        telemetry.record(AccessLogEntry("/parent"))
        with output._lock:  # as another thread of the parent may have it
            child = os.fork()
        if child == 0:
            telemetry.record(AccessLogEntry("/child"))
            telemetry.flush()
            os._exit(0)
        return child

    child = asyncio.run(serve())
    assert os.waitpid(child, 0)[1] == 0
    telemetry.flush()
    os.close(writing)
    with open(reading, "rb") as file:
        assert sorted(paths([file.read()])) == ["/child", "/parent"]


def test_text_names_the_members_of_enums_by_their_value(settings):
    reading, writing = os.pipe()
    Telemetry(settings(log_format="text"), NonBlockingWriter(writing)).log.info(
        "start", state=KeyState.CURRENT, keys={"kid": KeyState.RETIRING}, count=1
    )
    os.close(writing)
    with open(reading) as file:
        line = file.read()
    assert "keys={'kid': 'retiring'}" in line
    assert "state=current" in line
    assert "count=1" in line
    assert "KeyState" not in line


def test_threads_write_their_lines_one_after_the_other():
    reading, writing = os.pipe()
    output = NonBlockingWriter(writing)

    def write(name):
        for number in range(1000):
            output.write(b"%s-%d\n" % (name, number))

    with ThreadPoolExecutor() as threads, open(reading) as lines:
        writers = [threads.submit(write, name) for name in (b"a", b"b", b"c")]
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
    assert first == {"event": "Started x", "level": "info", "logger": "uvicorn"}
    assert second == {"event": "Exception in callback", "level": "error", "logger": "asyncio"}
    assert third.pop("where").rpartition(":")[0] == __file__
    assert third == {
        "event": "Exception in ASGI application",
        "level": "error",
        "logger": "uvicorn",
        "error": "RuntimeError",
    }


def test_an_exception_that_was_never_raised_comes_from_nowhere(settings, told):
    Telemetry(settings()).log_exception(RuntimeError("canary"))
    assert told() == [{"event": "internal_error", "level": "error", "error": "RuntimeError", "where": "?"}]


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
