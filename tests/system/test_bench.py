"""The benchmark: its client, what it computes, that every peer keeps the same contract, and every kind of input."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bench import (
    client,
    hosts,
    inputs,
    namespaces,
    processes,
    report,
    results,
    rotation,
    servers,
    soak,
    steady,
    tables,
    world,
)
from bench.client import Load
from bench.kinds import Kind
from bench.wire import Wire, exchange

FOLDER = Path(__file__).parents[2] / "bench"


def figures(cpu_us: float, errors: int = 0) -> "report.Figures":
    return report.Figures(per_s=1e6 / cpu_us, cpu_us=cpu_us, errors=errors)


def test_ratios_are_taken_round_by_round():
    # The machine was twice as slow in the second round: the ratio does not change.
    assert report.ratio([50.0, 100.0, 66.0], [100.0, 200.0, 120.0]) == "0.50 (0.50 to 0.55)"


def test_a_report_has_every_row_and_the_targets_of_the_rows_it_has():
    rows = {servers.OURS: [figures(100), figures(200, errors=2)], servers.FASTAPI: [figures(400), figures(800)]}
    clients = report.clients(tables.TABLES["ES256"])
    text = report.report(rows, clients, tables.TARGETS["ES256"])
    assert "| verifier | never sleeps, 16 keep-alive connections, closed loop | 150 |  | 7,500 |" in text
    assert text.count(" | 4.00 (4.00 to 4.00) | ") == 1
    assert "| 2 |\n" in text
    assert "| CPU: verifier / FastAPI + PyJWT | 0.25 (0.25 to 0.25) | at most 0.37 | reached |" in text
    assert "Fastify" not in text


def test_a_target_that_is_missed_is_marked():
    rows = {"good": [figures(100)] * 3, "wrong secret": [figures(36)] * 3, "garbage": [figures(35)] * 3}
    text = report.report(rows, dict.fromkeys(rows, ""), tables.TARGETS["rejected ES256"])
    assert "| CPU: wrong secret / good | 0.36 (0.36 to 0.36) | at most 0.35 | **missed** |" in text
    assert "| CPU: garbage / good | 0.35 (0.35 to 0.35) | at most 0.35 | reached |" in text


def test_each_row_says_which_client_produced_it():
    said = {row: report.clients([row])[row.label] for rows in tables.TABLES.values() for row in rows}
    assert all(("never sleeps" in text) != row.load.sleeps for row, text in said.items() if row.server != servers.RAW)
    assert {text for text in said.values() if "a new connection for each" in text or "0.5 of capacity" in text} == {
        "never sleeps, 16 requests at once, a new connection for each",
        "never sleeps, 64 keep-alive connections, open loop, 0.5 of capacity",
    }


def test_every_target_is_about_rows_that_are_measured():
    for name, targets in tables.TARGETS.items():
        labels = {row.label for row in tables.TABLES[name]}
        assert all({target.row, *target.others} <= labels for target in targets)


def test_the_figures_of_the_documentation_are_those_of_the_results():
    page = (FOLDER.parent / "docs" / "performance.md").read_text()
    shown = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert {servers.OURS, servers.FASTAPI, servers.FASTIFY, servers.GO} <= {label for label, *_ in shown}
    for number, alg in enumerate(("ES256", "RS256"), start=1):
        section = results.RESULTS.read_text().partition(f"## {alg}\n")[2]
        for row in shown:
            assert f"\n| {row[0]} | {row[number]} " in re.sub(
                r"\| never sleeps[^|]*|\| none ", "", section.partition("<!-- end")[0]
            )


def test_a_section_of_the_results_replaces_its_own_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    results.write("a", "one\n")
    with results.RESULTS.open("a") as file:
        file.write("\nby hand\n")
    results.write("b", "two\n")
    results.write("a", "three\n")
    text = results.RESULTS.read_text()
    assert [line for line in text.splitlines() if line and "<!--" not in line] == [
        "# Results",
        "three",
        "by hand",
        "two",
    ]


def test_the_processor_time_of_a_process_and_its_children_is_counted():
    # Isolated from what measures coverage: killed processes would leave it half a file.
    code = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    try:
        deadline = time.monotonic() + 30
        while processes.cpu_s(processes.tree(process.pid)) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = processes.tree(process.pid)
        assert len(pids) == 2
        assert processes.rss_mib(pids) > 5
        before = processes.cpu_ns(pids) / 1e9
        assert before <= processes.cpu_s(pids) + 0.05
        assert before > 0.2
    finally:
        for pid in reversed(processes.tree(process.pid)):
            subprocess.run(["kill", str(pid)])
        process.wait()


class Served:
    """A server that responds as it is told and counts connections and requests."""

    def __init__(self, response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngood\n") -> None:
        self.response, self.connections, self.requests = response, 0, list[bytes]()
        self.hang_s = 0.0  # before the third response

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while request := await reader.readuntil(b"}"):
                self.requests.append(request)
                if len(self.requests) == 3:
                    await asyncio.sleep(self.hang_s)
                writer.write(self.response)
                if b"Connection: close" in request:
                    break
        writer.close()


def drive(served: Served, tmp_path: Path, load: Load, **options: object) -> client.Outcome:
    """Run the client against a server in this process."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    (tmp_path / "bodies").write_text('{"a"}\n{"bb"}\n')
    binary = client.build(tmp_path / "client")

    async def main() -> client.Outcome:
        server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        expected = {"status": 200, "length": 5, "seconds": 5.0, "core": "0"} | options
        outcome = await asyncio.to_thread(client.run, port, tmp_path / "bodies", load, binary=binary, **expected)
        server.close()
        await asyncio.sleep(0.05)  # for the ends of the connections
        return outcome

    return asyncio.run(main())


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_client_sends_so_many_requests_over_so_many_connections(sleeps, tmp_path):
    served = Served()
    outcome = drive(served, tmp_path, Load("keep", 3, sleeps), count=50)
    assert (outcome.requests, outcome.errors, len(served.requests), served.connections) == (50, 0, 50, 3)
    assert served.requests[0].startswith(b"POST /profile HTTP/1.1\r\nHost: 127.0.0.1:")
    assert {request.rpartition(b"\r\n\r\n")[2] for request in served.requests} == {b'{"a"}', b'{"bb"}'}
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.p999_ms <= outcome.max_ms < 5000


def test_the_client_ends_in_time(tmp_path):
    served = Served()
    outcome = drive(served, tmp_path, Load("keep", 2), seconds=0.3)
    assert 0.3 <= outcome.seconds < 2
    assert outcome.requests == len(served.requests) > 10


def test_the_client_makes_a_new_connection_for_each_request(tmp_path):
    served = Served()
    outcome = drive(served, tmp_path, Load("new", 3), count=50)
    assert (outcome.requests, outcome.errors, len(served.requests), served.connections) == (50, 0, 50, 50)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\ngood\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
    ],
)
@pytest.mark.parametrize("mode", ["keep", "new", "open"])
def test_the_client_counts_responses_of_another_status_or_length(response, mode, tmp_path):
    outcome = drive(Served(response), tmp_path, Load(mode, 2, rate=1000), count=10)
    assert (outcome.requests, outcome.errors) == (10, 10)


def test_an_open_loop_counts_from_when_a_request_was_due(tmp_path):
    served = Served()
    served.hang_s = 0.3
    outcome = drive(served, tmp_path, Load("open", 1, rate=100), seconds=0.4)
    assert (outcome.requests, outcome.errors, served.connections) == (40, 0, 1)
    # What was due while nothing was answered has waited, though it was sent later.
    assert outcome.max_ms > 250
    assert outcome.p50_ms > 50


def test_quantiles_are_times_that_were_measured():
    ordered = [float(n) for n in range(1, 1001)]
    assert [steady.quantile(ordered, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 500, 990, 999, 1000]
    assert steady.quantile([7.0], 0.999) == 7
    assert steady.spread_ms([0.003, 0.001, 0.002]) == (2, 3, 3, 3)


def test_a_steady_load_goes_on_while_the_server_hangs_and_counts_from_when_a_request_was_due():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"{}"):
                received.append(time.perf_counter())
                number = len(received)
                if number == 3:
                    await asyncio.sleep(0.3)
                if number == 7:
                    break
                status = {5: b"500 Oops", 6: b"200 OK"}.get(number, b"401 Unauthorized")
                writer.write(b'HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\n"no"\n' % status)
        writer.close()

    async def run() -> steady.Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        requests = iter([steady.Request("bad", 401, b'"no"', steady.post(b"{}"))] * 40)
        load = steady.Load(server.sockets[0].getsockname()[1], requests, 1)
        await load.run(100, 0.4)
        server.close()
        await asyncio.sleep(0.05)  # for the connections' ends
        return load

    received: list[float] = []
    load = asyncio.run(run())
    assert len(load.responses) == 40
    dues = sorted(due for due, _, _ in load.responses)
    assert dues[-1] - dues[0] == pytest.approx(0.39)
    # What was due while nothing was answered has waited, though it was sent later.
    assert sum(seconds > 0.1 for _, seconds, _ in load.responses) >= 15
    assert sorted(text[:8] for text in load.unexpected) == ["bad: 0 N", "bad: 200", "bad: 500"]


@pytest.mark.parametrize("revoked", [False, True])
def test_the_requests_of_the_long_runs_get_the_responses_that_they_expect(revoked, tmp_path):
    keys, number = tmp_path / "keys", processes.free_port()
    namespaces.verifier("keys", "generate", "--keys", keys)
    source = steady.TokenSource(keys)
    token = source.token("42")
    if revoked:
        kid = source.signer(int(time.time())).kid
        namespaces.verifier("keys", "revoke", "--kid", kid, "--reason", "test", "--replace", "--keys", keys)
        source = steady.TokenSource(keys)
    requests = itertools.chain(
        itertools.islice(soak.requests(source), 25), hosts.requests(source, [token] if revoked else [])
    )
    environment = {name: value for name, value in rotation.environment(keys).items() if not name.startswith("COVERAGE")}
    line = servers.command(servers.OURS, number)
    with processes.running(line, environment | {"VERIFIER_PORT": str(number)}) as process:
        processes.first_response(process, number, b"{}", 400, time.monotonic())
        load = steady.Load(number, requests, 2)
        asyncio.run(load.run(100, 0.45))
    assert load.unexpected == {}
    assert Counter(kind for _, _, kind in load.responses) == {"good": 36, "bad": 9}


def test_tenths_are_medians_of_even_parts():
    samples = [soak.Sample(*[float(n)] * 8) for n in range(25)]
    assert [part.rss_mib for part in soak.tenths(samples)] == [0.5, 3, 5.5, 8, 10.5, 13, 15.5, 18, 20.5, 23]
    assert [part.max_ms for part in soak.tenths(samples[:3])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "unexpected", "fails"),
    [
        ({"rss_mib": 50.9, "descriptors": 32, "p50_ms": 1.1, "p99_ms": 1.0}, Counter(), []),
        ({"rss_mib": 51.1}, Counter(), ["RSS, MiB"]),
        ({"descriptors": 33}, Counter(), ["descriptors"]),
        ({"p50_ms": 1.3, "p99_ms": 2.5}, Counter(), ["p50, ms", "p99, ms"]),
        ({}, Counter({"good: 500": 1}), ["unexpected responses"]),
    ],
)
def test_a_soak_fails_when_something_grows(change, unexpected, fails):
    first = soak.Sample(50, 30, 30, 200, 1, 2, 3, 4)
    parts = [first, first._replace(rss_mib=70), first._replace(**change)]
    checks = soak.checks(parts, soak.Run(1000, parts, unexpected))
    assert [check.what for check in checks if not check.holds] == fails
    assert soak.report(parts, checks).count("**fails**") == len(fails)


def test_good_sign_ins_are_measured_together_and_shown_by_what_was_done_before():
    responses = [(float(n), 0.002, "good") for n in range(1000)] + [(5.0, 0.3, "bad"), (700.0, 0.3, "good")]
    result = hosts.Result(100, responses, Counter(), [(-1.0, "nothing yet"), (500.0, "kill")])
    assert result.holds()
    assert result.within() == pytest.approx(1000 / 1001)
    assert [(name, len(times), max(times)) for name, times in result.phases()] == [
        ("nothing yet", 500, 0.002),
        ("kill", 501, 0.3),
    ]
    assert not result._replace(responses=[*responses, (701.0, 0.3, "good")]).holds()
    assert not result._replace(unexpected=Counter({"bad: 200 ...": 1})).holds()
    assert "| kill | 501 | 1 | 2.0 | 2.0 | 300 |" in hosts.report(result, 60)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
@pytest.mark.parametrize(
    "server",
    [
        *(servers.OURS, servers.UNBATCHED, servers.FASTAPI, servers.STARLETTE, servers.FASTIFY, servers.GO),
        *(servers.RUST, servers.BUN_JOSE, servers.UVICORN, servers.GRANIAN, servers.HYPERCORN),
    ],
)
def test_every_peer_gives_the_same_profile_and_rejects_the_same(server, alg, tmp_path):
    if server == servers.RUST and not (servers.BUILD / "rust" / "release" / "peer").exists():
        pytest.skip("takes minutes to build: make bench")
    python = FOLDER / ".venv" / "bin" / "python"
    port = processes.free_port()
    line = servers.command(server, port, str(python) if python.exists() else sys.executable)
    if isinstance(line, str):
        pytest.skip(line)
    good = world.prepare(tmp_path / "good", world.Conditions(alg), 1)
    environment = good.environment | {"PORT": str(port), "VERIFIER_PORT": str(port)}
    environment = {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
    with processes.running(line, environment) as process:

        def response(at: "world.World", status: int) -> object:
            body = at.bodies.read_bytes().splitlines()[0]
            return json.loads(processes.first_response(process, port, body, status, time.monotonic()).body)

        assert response(good, 200) == good.profile
        for load, code in (
            ("wrong secret", "invalid_client"),
            ("garbage", "invalid_token"),
            ("expired", "invalid_token"),
        ):
            bad = world.prepare(tmp_path / load, world.Conditions(alg, load), 1)
            assert response(bad, 401)["error"] == code


@pytest.mark.parametrize("load", ["good", "wrong secret"])
def test_the_profile_shows_the_modules_that_a_request_passes(load):
    line = [sys.executable, "-m", "bench.where", "--count", "200", "--load", load]
    done = subprocess.run(line, capture_output=True, text=True, cwd=FOLDER.parent, check=True)
    status = 200 if load == "good" else 401
    assert re.match(rf"[\d.]+ µs of processor time per request; responses \{{b'{status}': 200\}}\n", done.stdout)
    assert {"verifier.server.connection", "verifier.core.applications"} <= set(done.stdout.split())


KINDS = {group.__module__.rpartition(".")[2] + "." + group.__name__: group for group in inputs.LIST}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A running server that knows the key of `inputs.Sender`."""
    at = world.prepare(tmp_path_factory.mktemp("world") / "world", count=1)
    number = processes.free_port()
    environment = {name: value for name, value in at.environment.items() if not name.startswith("COVERAGE")}
    line = servers.command(servers.OURS, number)
    with processes.running(line, environment | {"VERIFIER_PORT": str(number)}) as process:
        processes.first_response(process, number, at.bodies.read_bytes().rstrip(), 200, time.monotonic())
        yield number


@pytest.mark.parametrize("group", KINDS)
def test_every_kind_of_input_gets_a_response_or_the_end_of_its_connection(group, port):
    failed = {}
    for kind in KINDS[group](inputs.Sender("ES256")):
        with closing(Wire(port)) as wire:
            outcomes = exchange([wire], [kind.make(0)], kind)
        if not outcomes or any(outcome.startswith("5") or outcome == "no response" for outcome in outcomes):
            failed[kind.name] = outcomes
    assert failed == {}


def test_the_kinds_of_input_have_distinct_names():
    names = Counter(kind.name for group in KINDS.values() for kind in group(inputs.Sender("ES256")))
    assert len(names) > 1000
    assert max(names.values()) == 1


def test_the_costs_of_inputs_are_shown_by_group_and_from_the_highest():
    costs = [
        inputs.Cost("head: a", 10, 200, 2.0, Counter({"401": 3})),
        inputs.Cost("head: b", 10, 510, 5.1, Counter({"400": 2, "closed": 1})),
        inputs.Cost("body: c", 10, 50, 0.5, Counter({"400": 1})),
    ]
    text = inputs.report(costs, [90, 100, 110], 2)
    assert "A valid sign-in: 100 µs (90 to 110). 3 kinds of input, 1 of them over 5 valid sign-ins." in text
    assert "| head | 2 | 3.5 | 5.1 | b |" in text
    assert "| body | 1 | 0.5 | 0.5 | c |" in text
    assert text.endswith("| 5.1 | 510 | 10 | head: b | 400, closed |\n| 2.0 | 200 | 10 | head: a | 401 |\n")


def test_a_wire_reads_every_response_and_reports_how_a_connection_ended(port):
    get = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with closing(Wire(port)) as wire:
        assert exchange([wire], [[get]], Kind("", lambda _: [])) == {"200": 1}
        assert exchange([wire], [[get + get, get]], Kind("", lambda _: [], responses=3)) == {"200": 3}
        assert exchange([wire], [[get[:9]]], Kind("", lambda _: [], ends=True)) != {}
        assert exchange([wire], [[get]], Kind("", lambda _: [], hangs_up=True)) == {"left": 1}
        assert exchange([wire], [[b"HEAD" + get[3:]]], Kind("", lambda _: [], head_only=True)) == {"200": 1}
