"""Mutation testing of the whole package: python -m tests.fuzz.mutants [--per-module N] [--seed N] [MODULE ...]

Changes the package in one place at a time, in copies of the tree (.mutants), and expects a test to fail. The sample is
stratified by module and seeded, so a run can be repeated. A mutant is tried against the tests of its module first,
then against those of its subpackage, then against tests/system/test_architecture.py and the suite without tests/system.
Prints each survivor and the figures of each subpackage; exit status 1 when less than 97 % are killed.
Mutants that behave like the original are listed in tests/fuzz/survivors.txt and not tried.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
COPIES = ROOT / ".mutants"
EQUIVALENT = Path(__file__).parent / "survivors.txt"  # a line "module: before -> after  # reason" each
PRELOADED = (
    "click",
    "cryptography.x509",
    "freezegun",
    "httptools",
    "hypothesis",
    "jinja2",
    "jsonschema",
    "jwt",
    "orjson",
)
PRELOADED += ("prometheus_client", "pybase64", "starlette.routing", "structlog", "uvicorn", "xdist")
TESTS = ("module", "subpackage", "all")
TARGET = 0.97
TIMEOUT_S = 600  # longer than any run of the tests; a mutant that hangs is killed
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult}


@dataclass(frozen=True)
class Mutant:
    """One change of one module; `source` is the module after it."""

    module: str  # path below verifier/, without .py
    change: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}: {self.change}"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no docstring, no annotation, nothing that only a type checker reads."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from (node for part in child.orelse for node in [part, *nodes(part)])
                continue
            yield child
            yield from nodes(child)


def changes(node: ast.AST) -> Iterator[tuple[str, object, object]]:
    """Each change of one node: the field, its value afterwards, and its value before."""
    match node:
        case ast.Compare(ops=[operator]):
            yield "ops", [COMPARISONS[type(operator)]()], node.ops
        case ast.BoolOp():
            yield "op", ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.op
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield "op", OPERATORS[type(node.op)](), node.op
        case ast.Constant(value=bool() as value):
            yield "value", not value, value
        case ast.Constant(value=int() | float() as number):
            yield "value", number + 1, number
        case ast.Constant(value=str() | bytes() as text) if text:
            yield "value", text[:-1] + (b"~" if isinstance(text, bytes) else "~"), text
        case ast.Return(value=ast.expr() as value):
            yield "value", ast.Constant(None), value
        case ast.If() | ast.While() | ast.IfExp():
            yield "test", ast.UnaryOp(ast.Not(), node.test), node.test
        case ast.Expr(value=ast.Call() as call):
            yield "value", ast.Constant(None), call
        case ast.Raise():
            yield "exc", ast.Name("RuntimeError"), node.exc


def mutants(path: Path, chance: random.Random, count: int) -> Iterator[Mutant]:
    """A sample of the mutants of a module."""
    text = path.read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    module = str(path.relative_to(ROOT / "verifier").with_suffix(""))
    shown = [node for node in nodes(tree) if "pragma: no " not in lines[getattr(node, "lineno", 1) - 1]]
    every = [(node, *change) for node in shown for change in changes(node)]
    for node, field, after, kept in chance.sample(every, min(count, len(every))):
        before = ast.unparse(node)
        setattr(node, field, after)
        change = f"{' '.join(before.split())[:90]} -> {' '.join(ast.unparse(node).split())[:90]}"
        yield Mutant(module, change, ast.unparse(ast.fix_missing_locations(tree)))
        setattr(node, field, kept)


def copy(target: Path) -> None:
    """Copy what is in the repository, committed or not."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def preload() -> None:
    """Import what the tests import from elsewhere: a child process then starts in a third of the time."""
    for name in PRELOADED:
        importlib.import_module(name)


def run_tests(tree: Path, suite: list[str]) -> NoReturn:
    """Run tests in a copy of the tree, in this process."""
    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)  # because the processes that the tests start must run the copy, too
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # this one is of the checkout
    status: int = pytest.ExitCode.INTERNAL_ERROR
    try:  # without rewritten assertions, because modules that pytest would rewrite are imported already
        status = pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", "--assert=plain", "--color=no", *suite])
    finally:
        sys.stdout.flush()
        os._exit(status)


def fails(tree: Path, suite: list[str]) -> str:
    """Return the first failure of these tests in a copy of the tree; empty when they pass."""
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if not pid:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            run_tests(tree, suite)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return f"no end after {TIMEOUT_S} s"
            time.sleep(0.1)
        if not status:
            return ""
        output.seek(0)
        lines = [line for line in output.read().splitlines() if line]
    named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return (named or lines or ["no output"])[0][:160]


def own_copy() -> Path:
    """The copy of the tree that this process changes."""
    tree = COPIES / str(os.getpid())
    if not tree.exists():
        copy(tree)
    return tree


def killed_by(mutant: Mutant, tests: str) -> str:
    """Return the first test that fails with this change; empty when it survives."""
    tree = own_copy()
    package, _, name = mutant.module.rpartition("/")
    own = sorted(str(path.relative_to(tree)) for path in (tree / "tests" / package).glob(f"test_{name}*.py"))
    wider = [f"tests/{package}" if package else "tests/system/test_architecture.py"]
    suites = [own, wider] if own else [wider, []]
    suites += [["tests/system/test_architecture.py"], ["tests", "--ignore", "tests/system"]]
    path = tree / "verifier" / f"{mutant.module}.py"
    kept = path.read_text()
    path.write_text(mutant.source)
    try:
        chosen = suites[: TESTS.index(tests) + 1 if tests != "all" else None]
        return next((failure for suite in chosen if suite and (failure := fails(tree, suite))), "")
    finally:
        path.write_text(kept)


def samples(per_module: int, seed: int, modules: list[str]) -> Iterator[Mutant]:
    """A sample of every module, or of those that are named, without what is equivalent."""
    equivalent = {line.partition("  #")[0] for line in EQUIVALENT.read_text().splitlines()}
    for path in sorted((ROOT / "verifier").rglob("*.py")):
        if not modules or str(path.relative_to(ROOT / "verifier").with_suffix("")) in modules:
            chance = random.Random(f"{seed} {path.name}")  # noqa: S311 - repeatable on purpose
            yield from (mutant for mutant in mutants(path, chance, per_module) if str(mutant) not in equivalent)


def main() -> None:
    """Try the sample, or what is listed in a file of an earlier run's survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-module", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tests", choices=TESTS, default="all", help="those of the module, or also of the subpackage")
    parser.add_argument("--unchecked", action="store_true", help="take for granted that the tests pass")
    parser.add_argument("--again", type=Path, help="only the mutants that this output of an earlier run names")
    parser.add_argument("module", nargs="*", help="core/tokens, for example")
    arguments = parser.parse_args()
    sample = list(samples(arguments.per_module, arguments.seed, arguments.module))
    if arguments.again:
        named = arguments.again.read_text()
        sample = [mutant for mutant in sample if f"survived: {mutant}\n" in named]
    shutil.rmtree(COPIES, ignore_errors=True)
    preload()
    if not arguments.unchecked and (failure := fails(own_copy(), ["tests", "--ignore", "tests/system"])):
        sys.exit(f"the tests fail without a mutant: {failure}")
    tried: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork")) as pool:
        running = {pool.submit(killed_by, mutant, arguments.tests): mutant for mutant in sample}
        for done in as_completed(running):
            mutant, killer = running[done], done.result()
            package = mutant.module.rpartition("/")[0] or "verifier"
            tried[package] += 1
            killed[package] += bool(killer)
            print(f"killed: {mutant}  # {killer}" if killer else f"survived: {mutant}", flush=True)
    for package in sorted(tried):
        print(f"{package}: {killed[package]} of {tried[package]} killed")
    print(f"{killed.total()} of {tried.total()} mutants killed ({killed.total() / max(tried.total(), 1):.1%})")
    sys.exit(killed.total() < TARGET * tried.total())


if __name__ == "__main__":
    main()
