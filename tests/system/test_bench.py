"""The benchmark: what it parses, what it computes, and that every peer keeps the same contract."""

import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from bench import bench, hosts, soak, steady

FOLDER = Path(__file__).parents[2] / "bench"

WRK = """Running 1s test @ http://127.0.0.1:8000/profile
Requests/sec:   2938.14
Transfer/sec:    622.67KB

{"requests": 2968, "seconds": 1.010164, "p50_ms": 5.257000, "p99_ms": 13.081000, "errors": 3}
"""


def figures(cpu_us: float, errors: int = 0) -> "bench.Figures":
    return bench.Figures(per_s=1e6 / cpu_us, cpu_us=cpu_us, errors=errors)


def test_the_last_line_of_wrk_is_read():
    assert bench.parse_wrk(WRK) == {
        "requests": 2968,
        "seconds": 1.010164,
        "p50_ms": 5.257,
        "p99_ms": 13.081,
        "errors": 3,
    }


def test_ratios_are_taken_round_by_round():
    # The machine was twice as slow in the second round: the ratio does not care.
    assert bench.ratio([50.0, 100.0, 66.0], [100.0, 200.0, 120.0]) == "0.50 (0.50 to 0.55)"


def test_a_report_has_every_row_and_the_targets_of_the_rows_it_has():
    rows = {
        bench.RESOURCE_EXHAUSTED: [figures(100), figures(200, errors=2)],
        bench.FASTAPI: [figures(400), figures(800)],
    }
    text = bench.report(rows, bench.TARGETS["ES256"])
    assert "| verifier | 150 | 7,500 |" in text
    assert text.count(" × 4.00 (4.00 to 4.00)") == 1
    assert "| 2 |\n" in text
    assert "| CPU: verifier / FastAPI + PyJWT | 0.25 (0.25 to 0.25) | at most 0.45 |" in text
    assert "Fastify" not in text


def test_the_figures_of_the_documentation_are_those_of_the_results():
    page = (FOLDER.parent / "docs" / "performance.md").read_text()
    shown = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert [label for label, *_ in shown] == [
        *(bench.RESOURCE_EXHAUSTED, bench.FASTAPI, bench.STARLETTE, bench.FASTIFY, bench.GO, bench.RAW)
    ]
    for number, alg in enumerate(("ES256", "RS256"), start=1):
        section = bench.RESULTS.read_text().partition(f"## {alg}\n")[2]
        for row in shown:
            assert f"\n| {row[0]} | {row[number]} " in section.partition("<!-- end")[0]


def test_a_section_of_the_results_replaces_its_own_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    bench.write("a", "one\n")
    with bench.RESULTS.open("a") as file:
        file.write("\nby hand\n")
    bench.write("b", "two\n")
    bench.write("a", "three\n")
    text = bench.RESULTS.read_text()
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
        while bench.cpu_s(bench.tree(process.pid)) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(bench.tree(process.pid)) == 2
        assert bench.rss_mib(bench.tree(process.pid)) > 5
    finally:
        for pid in reversed(bench.tree(process.pid)):
            subprocess.run(["kill", str(pid)])
        process.wait()


def test_quantiles_are_times_that_were_measured():
    ordered = [float(n) for n in range(1, 1001)]
    assert [steady.quantile(ordered, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 500, 990, 999, 1000]
    assert steady.quantile([7.0], 0.999) == 7
    assert steady.spread_ms([0.003, 0.001, 0.002]) == (2, 3, 3, 3)


def test_a_steady_load_asks_on_while_the_server_hangs_and_counts_from_when_a_request_was_due():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"{}"):
                asked.append(time.perf_counter())
                number = len(asked)
                if number == 3:
                    await asyncio.sleep(0.3)
                if number == 7:
                    break
                status = {5: b"500 Oops", 6: b"200 OK"}.get(number, b"401 Unauthorized")
                writer.write(b'HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\n"no"\n' % status)
        writer.close()

    async def run() -> steady.Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        asks = iter([steady.refusal("no", b"{}")] * 40)
        load = steady.Load(server.sockets[0].getsockname()[1], asks, 1)
        await load.run(100, 0.4)
        server.close()
        await asyncio.sleep(0.05)  # for the connections' ends
        return load

    asked: list[float] = []
    load = asyncio.run(run())
    assert len(load.took) == 40
    dues = sorted(due for due, _, _ in load.took)
    assert dues[-1] - dues[0] == pytest.approx(0.39)
    # What was due while nothing was answered has waited, though it was sent later.
    assert sum(seconds > 0.1 for _, seconds, _ in load.took) >= 15
    assert sorted(text[:8] for text in load.unexpected) == ["bad: 0 N", "bad: 200", "bad: 500"]


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
        ({}, Counter({"good: 500": 1}), ["unexpected answers"]),
    ],
)
def test_a_soak_fails_when_something_grows(change, unexpected, fails):
    first = soak.Sample(50, 30, 30, 200, 1, 2, 3, 4)
    parts = [first, first._replace(rss_mib=70), first._replace(**change)]
    judged = soak.claims(parts, soak.Run(1000, parts, unexpected))
    assert [claim.what for claim in judged if not claim.holds] == fails
    assert soak.report(parts, judged).count("**fails**") == len(fails)


def test_good_sign_ins_are_judged_by_all_of_them_and_shown_by_what_was_done_before():
    answers = [(float(n), 0.002, "good") for n in range(1000)] + [(5.0, 0.3, "bad"), (700.0, 0.3, "good")]
    result = hosts.Result(100, answers, Counter(), [(-1.0, "nothing yet"), (500.0, "kill")])
    assert result.holds()
    assert result.within() == pytest.approx(1000 / 1001)
    assert [(name, len(times), max(times)) for name, times in result.phases()] == [
        ("nothing yet", 500, 0.002),
        ("kill", 501, 0.3),
    ]
    assert not result._replace(answers=[*answers, (701.0, 0.3, "good")]).holds()
    assert not result._replace(unexpected=Counter({"bad: 200 ...": 1})).holds()
    assert "| kill | 501 | 1 | 2.0 | 2.0 | 300 |" in hosts.report(result, 60)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
@pytest.mark.parametrize("server", [bench.RESOURCE_EXHAUSTED, bench.FASTAPI, bench.STARLETTE, bench.FASTIFY, bench.GO])
def test_every_peer_gives_the_same_profile_and_refuses_the_same(server, alg, build, tmp_path):
    python = FOLDER / ".venv" / "bin" / "python"
    line = bench.command(server, build, str(python) if python.exists() else sys.executable)
    if isinstance(line, str):
        pytest.skip(line)
    good = bench.prepare(tmp_path / "good", bench.Row("", alg=alg), 1)
    port = bench.free_port()
    environment = good.environment | {"PORT": str(port), "VERIFIER_PORT": str(port)}
    environment = {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
    process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)

    def answer(world: "bench.World", status: int) -> object:
        return bench.first_answer(process, port, world.bodies.read_bytes().splitlines()[0], status, time.monotonic())[0]

    try:
        assert answer(good, 200) == good.profile
        for load, code in (
            ("wrong secret", "invalid_client"),
            ("garbage", "invalid_token"),
            ("expired", "invalid_token"),
        ):
            assert answer(bench.prepare(tmp_path / load, bench.Row("", alg=alg, load=load), 1), 401)["error"] == code
    finally:
        process.terminate()
        process.wait()
