"""The benchmark: what it parses, what it computes, and that every peer keeps the same contract."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "bench"
spec = importlib.util.spec_from_file_location("bench_harness", FOLDER / "bench.py")
assert spec is not None
assert spec.loader is not None
bench = importlib.util.module_from_spec(spec)
sys.modules["bench_harness"] = bench  # where its dataclasses look for it; "bench" is the folder
spec.loader.exec_module(bench)

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
    rows = {bench.OURS: [figures(100), figures(200, errors=2)], bench.FASTAPI: [figures(400), figures(800)]}
    text = bench.report(rows, bench.TARGETS["ES256"])
    assert "| verifier | 150 | 7,500 |" in text
    assert text.count(" × 4.00 (4.00 to 4.00)") == 1
    assert "| 2 |\n" in text
    assert "| CPU: verifier / FastAPI + PyJWT | 0.25 (0.25 to 0.25) | at most 0.45 |" in text
    assert "Fastify" not in text


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


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
@pytest.mark.parametrize("server", [bench.OURS, bench.FASTAPI, bench.STARLETTE, bench.FASTIFY, bench.GO])
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
