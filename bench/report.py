"""Tables in Markdown."""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from bench.servers import BUN, PEERS
from bench.tables import Row, Target


class Figures(NamedTuple):
    """The result of one round."""

    per_s: float
    cpu_us: float  # per request
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    rss_mib: float = 0.0
    first_s: float = 0.0
    errors: int = 0


_COLUMNS = (
    ("requests/s", "per_s", ",.0f"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("p99.9 ms", "p999_ms", ".2f"),
    ("RSS MiB", "rss_mib", ".0f"),
    ("first response s", "first_s", ".2f"),
)
_TITLES = {"cpu_us": "CPU", "p99_ms": "p99 ms", "rss_mib": "RSS MiB", "first_s": "first response s"}


def ratio(above: list[float], below: list[float]) -> str:
    """Format the median of the ratios round by round, and their range."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _values(rounds: list[Figures], name: str) -> list[float]:
    return [getattr(figures, name) for figures in rounds]


def report(rows: dict[str, list[Figures]], clients: dict[str, str], targets: list[Target]) -> str:
    """Format the rows of one table, each with its client, then the targets of the rows that there are."""
    titles = ["", "client", "CPU µs/request", "× the first row", *(title for title, *_ in _COLUMNS), "errors"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    first = next(iter(rows.values()))
    for label, rounds in rows.items():
        cpu = _values(rounds, "cpu_us")
        cells = [label, clients[label], f"{statistics.median(cpu):.0f}"]
        cells.append("" if rounds is first else ratio(cpu, _values(first, "cpu_us")))
        for _, name, form in _COLUMNS:
            values = _values(rounds, name)
            cells.append(f"{statistics.median(values):{form}}" if any(values) else "")
        lines.append(f"| {' | '.join([*cells, str(sum(f.errors for f in rounds))])} |")
    return "\n".join([*lines, *_targets(rows, targets)]) + "\n"


def _targets(rows: dict[str, list[Figures]], targets: list[Target]) -> list[str]:
    lines = []
    for target in targets:
        if not {target.row, *target.others} <= rows.keys():
            continue
        mine = _values(rows[target.row], target.figure)
        others = [_values(rows[other], target.figure) for other in target.others]
        below = [sum(each) for each in zip(*others, strict=True)] if others else [1.0] * len(mine)
        median = statistics.median(a / b for a, b in zip(mine, below, strict=True))
        reached = "reached" if median <= target.limit else "**missed**"
        title = f"{_TITLES[target.figure]}: {' / '.join([target.row, *[' + '.join(target.others)][: len(others)]])}"
        lines.append(f"| {title} | {ratio(mine, below)} | at most {target.limit:g} | {reached} |")
    return ["", "| | measured | target | |", "| --- | --- | --- | --- |", *lines] if lines else []


def clients(rows: list[Row]) -> dict[str, str]:
    """Say for each row which client produced its figures."""
    said = {}
    for row in rows:
        said[row.label] = f"{row.load}, {row.share:g} of capacity" if row.share else str(row.load)
        if row.server.endswith("signature check"):
            said[row.label] = "none"
    return said


def machine() -> str:
    """Say where and with which versions it ran."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    found = [f"Python {platform.python_version()}"]
    for name in (
        "uvicorn",
        "uvloop",
        "httptools",
        "starlette",
        "pyjwt",
        "cryptography",
        "fastapi",
        "granian",
        "hypercorn",
    ):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    for line in (["node", "--version"], ["go", "version"], ["rustc", "--version"], [str(BUN), "--version"]):
        if shutil.which(line[0]):
            text = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
            found.append(f"{Path(line[0]).name} {text.removeprefix(Path(line[0]).name).strip()}")
    dependencies = json.loads((PEERS / "package.json").read_text())["dependencies"]
    found += [f"{name} {number}" for name, number in dependencies.items()]
    found += re.findall(r"(golang-jwt/jwt/v5 v[\d.]+)", (PEERS / "go" / "go.mod").read_text())
    lock = (PEERS / "rust" / "crates.lock").read_text()
    for name in ("axum", "jsonwebtoken"):
        found += [f"{name} {number}" for number in re.findall(rf'name = "{name}"\nversion = "(.+)"', lock)]
    return f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}; {', '.join(found)}."
