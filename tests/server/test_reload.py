"""Reading again: every second, before the first request, in any loop, thread and process; and reads that hang."""

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.conftest import APPLICATION_ID, SECRET, Server, start
from verifier.errors import ConfigError
from verifier.server import reader, reload
from verifier.server.endpoints import Service, create_app
from verifier.server.settings import Settings

STALE = "keys and applications have not been read recently enough to be trusted"
REVOKED = "the key with this kid is revoked"


@pytest.fixture(autouse=True)
def current_keys(keys, key_files):
    """Keys that verify at the real time."""
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": int(time.time()) - 100}))


@pytest.fixture
def settings(environment) -> Settings:
    return Settings.from_environment(environment)


@pytest.fixture
def sign_in(issue):
    """The body of a sign-in that is valid at the real time."""
    now = int(time.time())
    token = issue(iat=now, exp=now + 300)
    return json.dumps({"code": token, "secretKey": SECRET, "applicationId": APPLICATION_ID}).encode()


async def call(app: Any, body: bytes = b"", path: str = "/profile", **scope: Any) -> tuple[int, Any]:
    """Status and body of the response to one request."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    method = "POST" if body else "GET"
    headers = [(b"content-type", b"application/json")]
    await app({"type": "http", "method": method, "path": path, "headers": headers} | scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def text_of(response: tuple[int, Any]) -> str:
    return response[1].get("error_description", "")


def revoke(keys, pairs, alg="ES256"):
    path = keys / "public" / f"{pairs[alg].kid}.json"
    members = json.loads(path.read_bytes()) | {"revoked": {"revoked_at": 1, "reason": "stolen"}}
    path.with_suffix(".tmp").write_text(json.dumps(members))
    path.with_suffix(".tmp").replace(path)


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- without a lifespan


def test_the_first_request_sees_a_revocation_since_the_application_was_created(settings, sign_in, keys, pairs):
    app = create_app(settings)
    revoke(keys, pairs)
    assert text_of(asyncio.run(call(app, sign_in))) == REVOKED


def test_a_mounted_application_sees_a_revocation_within_2_seconds(settings, sign_in, keys, pairs):
    app = Starlette(routes=[Mount("/escs", create_app(settings))])

    async def serve() -> float:
        assert (await call(app, sign_in, "/escs/profile"))[0] == 200
        revoke(keys, pairs)
        began = time.monotonic()
        while (await call(app, sign_in, "/escs/profile"))[0] == 200:
            assert time.monotonic() - began < 2
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    assert asyncio.run(serve()) < 2


def test_files_are_read_once_per_second(settings, monkeypatch):
    service = Service(settings)
    reads: list[float] = []

    def refresh(*, full: bool = False) -> bool:
        reads.append(time.monotonic())
        return False

    monkeypatch.setattr(service.files.keys, "refresh", refresh)
    service.files.start()
    until(lambda: len(reads) > 3)
    service.files.stop()
    gaps = [after - before for before, after in itertools.pairwise(reads)]
    assert all(0.95 < gap < 1.5 for gap in gaps), gaps


def test_each_event_loop_of_a_process_reads(settings, sign_in, keys, pairs):
    app = create_app(settings)
    assert asyncio.run(call(app, sign_in))[0] == 200
    revoke(keys, pairs)
    until(lambda: text_of(asyncio.run(call(app, sign_in))) == REVOKED, 2)


def test_event_loops_in_several_threads_share_one_application(settings, sign_in):
    app = create_app(settings)
    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(asyncio.run, call(app, sign_in)) for _ in range(24)]
        assert {future.result()[0] for future in done} == {200}
    assert sum(thread.name.startswith("verifier-") for thread in threading.enumerate()) <= 8


def test_a_child_process_reads_before_its_first_response(settings, sign_in, keys, pairs):
    app = create_app(settings)
    assert asyncio.run(call(app, sign_in))[0] == 200
    revoke(keys, pairs)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if text_of(asyncio.run(call(app, sign_in))) == REVOKED else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_process_that_was_suspended_reads_before_its_first_response(settings, sign_in, keys, pairs, monkeypatch):
    app = create_app(settings)

    async def serve() -> str:
        assert (await call(app, sign_in))[0] == 200
        monkeypatch.setattr(reader, "RELOAD_INTERVAL_S", 3600)  # no read happens in the meantime
        await asyncio.sleep(1.1)
        revoke(keys, pairs)
        assert (await call(app, sign_in))[0] == 200
        monkeypatch.setattr(reload, "CURRENT_S", 0.0)  # as if that was long ago
        return text_of(await call(app, sign_in))

    assert asyncio.run(serve()) == REVOKED


def test_an_application_that_is_no_longer_used_stops_reading(settings, sign_in):
    before = threading.active_count()
    app = create_app(settings)
    asyncio.run(call(app, sign_in))
    assert threading.active_count() > before
    ended = weakref.ref(app)
    del app
    until(lambda: gc.collect() >= 0 and ended() is None and threading.active_count() <= before)


def test_a_lifespan_can_run_twice(settings, sign_in, told):
    service = Service(settings)

    async def live() -> None:
        async with service.lifespan(None):
            pass

    asyncio.run(live())
    until(lambda: not service.files._monitor.is_running())
    asyncio.run(live())
    assert [line["event"] for line in told()] == ["start", "stop", "start", "stop"]


@pytest.mark.parametrize("prefix", ["/escs", "/escs/", "/a/b", "/profile"])
def test_a_prefix_is_stripped(settings, sign_in, prefix):
    app = create_app(settings)
    found = asyncio.run(call(app, sign_in, prefix.rstrip("/") + "/profile", root_path=prefix))
    assert found == (200, {"_id": "42", "email": "ann@example.com", "username": "ann"})


@pytest.mark.parametrize(
    ("path", "root_path"),
    [("/escsx/profile", "/escs"), ("/escs", "/escs"), ("/escs/escs/profile", "/escs"), ("/profile", "/profile")],
)
def test_only_a_whole_prefix_is_stripped_once(settings, sign_in, path, root_path):
    assert asyncio.run(call(create_app(settings), sign_in, path, root_path=root_path))[0] == 404


def test_a_path_without_the_prefix_is_served_as_starlette_does(settings, sign_in):
    assert asyncio.run(call(create_app(settings), sign_in, "/profile", root_path="/escs"))[0] == 200


@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda *_: None])
def test_the_hangup_signal_of_another_program_is_left_alone(settings, handler):
    before = signal.signal(signal.SIGHUP, handler)

    async def live() -> Any:
        async with Service(settings).lifespan(None):
            return signal.getsignal(signal.SIGHUP)

    try:
        assert asyncio.run(live()) == handler
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_that_has_become_empty_is_an_error(settings, sign_in, told, keys):
    app = create_app(settings)
    for path in (keys / "public").iterdir():
        path.unlink()

    async def serve() -> None:
        assert (await call(app, sign_in))[0] == 401
        assert (await call(app, path="/readyz"))[0] == 503

    asyncio.run(serve())
    errors = [line for line in told() if line["event"] == "config_problem"]
    assert errors == [
        {
            "event": "config_problem",
            "level": "error",
            "problem": f"{keys / 'public'}: no key (expected <kid>.json)",
        }
    ]


# --- reads that hang


@pytest.fixture
def with_secret_file(environment, tmp_path):
    (tmp_path / "secret").write_text(environment.pop("VERIFIER_SECRET_KEY"))
    environment["VERIFIER_SECRET_KEY_FILE"] = str(tmp_path / "secret")
    return Settings.from_environment(environment)


def test_a_read_that_hangs_is_reported_and_sign_ins_continue(settings, sign_in, disk, told, keys):
    app = create_app(settings)

    async def serve() -> None:
        assert (await call(app, sign_in))[0] == 200
        disk.hangs = True
        while not (found := [line for line in told() if line["event"] == "config_problem"]):
            began = time.monotonic()
            assert (await call(app, sign_in))[0] == 200
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.01)
        assert found == [
            {
                "event": "config_problem",
                "level": "error",
                "problem": f"{keys / 'public'}: a read has not finished within 0.5 s",
            }
        ]
        began = time.monotonic()
        for _ in range(20):
            assert (await call(app, sign_in))[0] == 200
        assert time.monotonic() - began < 20 * 0.1  # because none of them waits CATCH_UP_S
        status, ready = await call(app, path="/readyz")
        assert (status, ready["hung_reads"]) == (200, 1)
        assert ready["last_read_age_s"] > 0.2
        disk.freed.set()
        while (ready := (await call(app, path="/readyz"))[1])["hung_reads"]:
            await asyncio.sleep(0.01)

    asyncio.run(serve())
    resumed = [line for line in told() if line["event"] == "read_resumed"]
    assert [(line["level"], line["path"]) for line in resumed] == [("warning", f"{keys / 'public'}")]


def test_without_a_completed_read_for_too_long_no_token_is_accepted(settings, sign_in, disk, told):
    app = create_app(replace(settings, max_staleness_s=1))
    says = "no read has completed for 1 s; every token is rejected until one does"
    lines: list[dict[str, Any]] = []

    async def serve() -> None:
        assert (await call(app, sign_in))[0] == 200
        disk.hangs = True
        began = time.monotonic()
        while (found := await call(app, sign_in))[0] == 200:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > 0.8
        assert found == (503, {"error": "temporarily_unavailable", "error_description": STALE})
        status, ready = await call(app, path="/readyz")
        assert (status, ready["status"]) == (503, "not ready")
        assert (await call(app, path="/.well-known/jwks.json"))[0] == 503
        assert (await call(app, path="/healthz"))[0] == 200
        while not any(line.get("problem") == says for line in lines):
            await asyncio.sleep(0.01)
            lines.extend(told())
        disk.freed.set()
        while (await call(app, sign_in))[0] != 200:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.01)

    asyncio.run(serve())
    lines.extend(told())
    assert {line["reason"] for line in lines if line.get("outcome") == "temporarily_unavailable"} == {"keys_stale"}
    assert [line["level"] for line in lines if line.get("problem") == says] == ["error"]


def test_a_secret_file_that_hangs_does_not_keep_a_revocation_from_arriving(
    with_secret_file, sign_in, disk, keys, pairs
):
    app = create_app(with_secret_file)
    disk.path = str(with_secret_file.secret_key_file)

    async def serve() -> str:
        assert (await call(app, sign_in))[0] == 200
        disk.hangs = True
        await asyncio.sleep(0.1)
        revoke(keys, pairs)
        began = time.monotonic()
        while (found := await call(app, sign_in))[0] == 200:
            assert time.monotonic() - began < 2
            await asyncio.sleep(0.01)
        return text_of(found)

    assert asyncio.run(serve()) == REVOKED


def test_a_read_that_hangs_at_the_start_aborts_it(settings, disk, keys):
    disk.hangs = True
    with pytest.raises(ConfigError) as caught:
        create_app(settings)
    assert (str(caught.value), caught.value.hint) == (
        f"{keys / 'public'}: a read has not finished within 0.5 s",
        "check the file system that holds it (NFS, FUSE)",
    )


def test_a_time_out_of_the_system_is_not_taken_for_a_read_that_hangs(settings, monkeypatch):
    def fail(*_: Any) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(reload, "bind_mounted_files", fail)
    with pytest.raises(TimeoutError, match="Connection timed out"):
        create_app(settings)


@pytest.mark.parametrize("at_start", [True, False])
def test_a_pipe_in_place_of_the_secret_is_named(with_secret_file, sign_in, told, at_start):
    path = with_secret_file.secret_key_file
    app = None if at_start else create_app(with_secret_file)
    path.unlink()
    os.mkfifo(path)
    says = f"{path}: cannot be read (is a pipe, not a regular file)"
    if at_start:
        with pytest.raises(ConfigError) as caught:
            create_app(with_secret_file)
        assert str(caught.value) == says
        return

    async def serve() -> None:
        status, ready = await call(app, path="/readyz")
        assert (status, ready["problems"]) == (200, 1)
        assert (await call(app, sign_in))[0] == 200

    asyncio.run(serve())
    assert [line["level"] for line in told() if line.get("problem") == says] == ["error"]


# --- reads that fail


def test_a_read_that_fails_is_not_the_last(settings, monkeypatch, told):
    monkeypatch.setattr(reader, "RELOAD_INTERVAL_S", 0.01)
    service = Service(settings)
    calls: list[int] = []

    def refresh(*, full: bool = False) -> bool:
        calls.append(1)
        raise RuntimeError("canary")

    monkeypatch.setattr(service.files.keys, "refresh", refresh)
    service.files.start()
    until(lambda: len(calls) > 2)
    service.files.stop()
    _start, failure = told()  # the same cause is logged once
    assert failure.pop("error").startswith(f"RuntimeError at {__file__}:")
    assert failure == {
        "event": "reload_failed",
        "level": "error",
        "kind": "keys",
        "path": str(service.files.keys.folder),
    }
    assert service.telemetry.reload_failures >= len(calls) - 1


def test_a_process_out_of_descriptors_is_stale_in_the_end(with_secret_file, sign_in, monkeypatch, disk, told):
    app = create_app(replace(with_secret_file, max_staleness_s=1))

    def fail(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    async def serve() -> None:
        assert (await call(app, sign_in))[0] == 200
        monkeypatch.setattr("verifier.server.applications_file.read_file", fail)
        began = time.monotonic()
        failed = False
        while (found := await call(app, sign_in))[0] == 200 or not failed:
            assert time.monotonic() - began < 10
            lines.extend(told())
            failed = any(line["event"] == "reload_failed" for line in lines)
            await asyncio.sleep(0.01)
        assert text_of(found) == STALE

    lines: list[dict[str, Any]] = []
    asyncio.run(serve())
    failures = [line for line in (*lines, *told()) if line["event"] == "reload_failed"]
    assert {(line["kind"], line["error"]) for line in failures} == {("applications", "Too many open files")}


# --- revocations


def test_a_revocation_that_is_undone_is_an_error_and_is_not_accepted(settings, sign_in, keys, pairs, told):
    app = create_app(settings)
    path = keys / "public" / f"{pairs['ES256'].kid}.json"
    original = path.read_bytes()

    async def serve() -> tuple[int, Any]:
        revoke(keys, pairs)
        assert text_of(await call(app, sign_in)) == REVOKED
        path.write_bytes(original)
        while not (found := [line for line in told() if line["event"] == "revocation_undone"]):
            await asyncio.sleep(0.01)
            await call(app, path="/readyz")
        assert found == [{"event": "revocation_undone", "level": "error", "kid": path.stem, "path": str(path)}]
        ready = (await call(app, path="/readyz"))[1]
        assert (ready["undone_revocations"], ready["usable_keys"]) == (1, 2)
        return await call(app, sign_in)

    assert text_of(asyncio.run(serve())) == REVOKED
    assert not [line for line in told() if line["event"] == "revocation_undone"]


# --- whole processes

HANGING = """
import sys, threading, time
from verifier.storage import snapshot
from verifier.server import applications_file, reader
read_file, began = snapshot.read_file, time.monotonic()
reader.READ_TIMEOUT_S = 0.5
snapshot.SETTLED_S = 1e9  # nothing is taken from the cache
def hang(path, max_bytes):
    if time.monotonic() - began > 2:
        threading.Event().wait()
    return read_file(path, max_bytes)
snapshot.read_file = applications_file.read_file = hang
from verifier.cli import main
main.main()
"""


def log_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_read_that_hangs_does_not_delay_the_exit(environment, tmp_path, sign_in):
    server = start(environment, tmp_path / "server.log", program=("-c", HANGING))
    until(lambda: any(line["event"] == "config_problem" for line in log_of(tmp_path / "server.log")))
    assert server.ask(sign_in).status == 200
    assert server.ask(method="GET", path="/readyz").body["hung_reads"] == 1
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    assert "stop" in [line["event"] for line in log_of(tmp_path / "server.log")]


def test_workers_log_every_request_once_and_correctly(environment, tmp_path, sign_in, pairs):
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "server.log")
    with ThreadPoolExecutor(8) as threads:
        good = list(threads.map(server.ask, [sign_in] * 60))
        bad = list(threads.map(server.ask, [b"{"] * 40))
    assert ({a.status for a in good}, {a.status for a in bad}) == ({200}, {400})
    assert server.stop() == 0
    lines = log_of(tmp_path / "server.log")
    requests = [line for line in lines if line["event"] == "request"]
    for line in requests:
        assert 0 < line.pop("duration_ms") < 10_000
        assert line.pop("time")
    signed_in = {"event": "request", "level": "info", "outcome": "ok", "status": 200, "path": "/profile", "slot": 1}
    signed_in |= {"application": APPLICATION_ID, "kid": pairs["ES256"].kid}
    rejected = {"event": "request", "level": "info", "outcome": "invalid_request", "status": 400, "path": "/profile"}
    assert [line for line in requests if line == signed_in] == [signed_in] * 60
    assert [line for line in requests if line != signed_in] == [rejected | {"reason": "body_not_json"}] * 40
    starts = [line for line in lines if line["event"] == "start"]
    assert len({line["pid"] for line in starts}) == 2
    assert sorted(line["pid"] for line in starts) == sorted(line["pid"] for line in lines if line["event"] == "stop")
    assert {line["settings"]["port"] for line in starts} == {server.port}


def test_each_worker_sees_a_revocation(environment, tmp_path, sign_in, keys, pairs):
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "server.log")
    assert server.ask(sign_in).status == 200
    revoke(keys, pairs)
    began = time.monotonic()
    until(lambda: {server.ask(sign_in).status for _ in range(20)} == {401}, 2)
    assert time.monotonic() - began < 2
    assert server.stop() == 0


def test_the_start_names_the_actual_port(environment, tmp_path):
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "verifier", "serve", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        until(lambda: any(line["event"] == "start" for line in log_of(log)))
        [port] = [line["settings"]["port"] for line in log_of(log) if line["event"] == "start"]
        assert port > 0
        assert Server(port, process).ask(method="GET", path="/healthz").status == 200
    finally:
        process.terminate()
        assert process.wait(timeout=15) == 0


def test_a_pipe_of_the_shell_as_secret_aborts_the_start_with_two_workers(environment, tmp_path):
    secret = environment.pop("VERIFIER_SECRET_KEY")
    script = f"exec {sys.executable} -m verifier serve --workers 2"
    command = ["bash", "-c", f"exec 3< <(echo {secret}); {script}"]
    environment |= {"VERIFIER_SECRET_KEY_FILE": "/dev/fd/3", "VERIFIER_PORT": "0"}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 3
    assert "/dev/fd/3: cannot be read (is a pipe, not a regular file)" in done.stderr


def test_the_key_set_is_served_without_another_read_while_files_are_current(settings, keys, pairs, monkeypatch):
    app = create_app(settings)

    async def serve() -> set[int]:
        found = {(await call(app, path="/.well-known/jwks.json"))[0]}
        monkeypatch.setattr(reload.Reloader, "catch_up", None)  # would fail if it was called
        return found | {(await call(app, path="/.well-known/jwks.json"))[0]}

    assert asyncio.run(serve()) == {200}


def test_a_stopped_thread_does_not_wait_for_its_next_turn(monkeypatch):
    monkeypatch.setattr("verifier.server.reader.RELOAD_INTERVAL_S", 60)
    called = threading.Event()

    class Source:
        def read(self) -> None:
            called.set()

    source = Source()
    periodic = reader.Periodic(source.read)
    periodic.start()
    assert called.wait(10)
    periodic.stop()
    periodic._thread.join(10)
    assert not periodic.is_running()
