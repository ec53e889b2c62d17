"""Runs every target for its share of the time: python -m tests.fuzz.run SECONDS [FOLDER] [TARGET ...].

Starts from tests/fuzz/corpus. What is found goes to FOLDER: a corpus per target, and the input of a finding.
Prints the executions; exit status 1 for a finding.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import seeds

HERE = Path(__file__).parent
TARGETS = ("connection", "request", "token", "header", "claims", "json", "base64url", "key", "applications")


def weight(target: str) -> int:
    """The share of a target: half for the connection, which is slow and has more states than the parsers together."""
    return len(TARGETS) - 1 if target == "connection" else 1


def run(target: str, seconds: int, folder: Path) -> tuple[int, str]:
    """Executions, and the end of the fuzzer's output when there was a finding."""
    corpus = folder / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds.corpus(target)):
        (corpus / f"seed-{number}").write_bytes(data)
    command = [sys.executable, "-m", "tests.fuzz.target", target, f"-dict={HERE / 'json.dict'}", "-max_len=4096"]
    command += [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={corpus}."]
    command += ["-print_final_stats=1", str(corpus)]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, errors="replace")
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    said = (line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("#", "INFO")))
    return int(found[1]) if found else 0, "" if done.returncode == 0 else "\n".join(said)


def main(seconds: int, folder: Path, chosen: tuple[str, ...]) -> int:
    total = findings = 0
    for target in chosen:
        executions, finding = run(target, max(1, seconds * weight(target) // sum(map(weight, chosen))), folder)
        total += executions
        findings += bool(finding)
        print(f"{target:<12}  {executions:>11,} executions  {'FINDING' if finding else 'no finding'}", flush=True)
        if finding:
            print(finding, flush=True)
    print(f"{'':<12}  {total:>11,} executions  {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        arguments = sys.argv[1:]
        folder = Path(arguments[1]) if len(arguments) > 1 else Path(temporary)
        sys.exit(main(int(arguments[0]), folder, tuple(arguments[2:]) or TARGETS))
