"""Mutation testing of the whole package: python -m tests.fuzz.mutants [--per-module N] [--seed N] [MODULE ...]

Changes the package in one place at a time, in a copy of the tree (.mutants), and expects a test to fail. The sample is
stratified by module and seeded, so a run can be repeated. A mutant is tried against the tests of its module first,
then against those of its subpackage, then against the suite without tests/system. Prints each survivor and the
figures; exit status 1 when less than 97 % are killed and not listed in tests/fuzz/survivors.txt as equivalent.
"""

import argparse
import ast
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / ".mutants"
EQUIVALENT = Path(__file__).parent / "survivors.txt"  # lines of "module: line text -> change", each with its reason
TARGET = 0.97
TIMEOUT_S = 600  # longer than any of the three runs; a mutant that hangs is killed
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


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a module."""
    text = path.read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    found = []
    module = str(path.relative_to(ROOT / "verifier").with_suffix(""))
    for node in list(nodes(tree)):
        line = getattr(node, "lineno", 0)
        if line and "pragma: no " in lines[line - 1]:
            continue
        before = ast.unparse(node) if line else ""
        for field, after, kept in changes(node):
            setattr(node, field, after)
            change = f"{' '.join(before.split())[:90]} -> {' '.join(ast.unparse(node).split())[:90]}"
            found.append(Mutant(module, change, ast.unparse(ast.fix_missing_locations(tree))))
            setattr(node, field, kept)
    return found


def copy() -> None:
    """Copy what is in the repository, committed or not."""
    shutil.rmtree(COPY, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)


def survives(mutant: Mutant) -> bool:
    """Return whether every test passes with this change."""
    path = COPY / "verifier" / f"{mutant.module}.py"
    kept = path.read_text()
    path.write_text(mutant.source)
    package, _, name = mutant.module.rpartition("/")
    own = sorted((COPY / "tests" / package).glob(f"test_{name}*.py"))
    suites = [own, [COPY / "tests" / package], [COPY / "tests", "--ignore", str(COPY / "tests" / "system")]]
    try:
        for suite in suites if package else suites[::2]:
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-n",
                "2",
                "-p",
                "no:cacheprovider",
                *map(str, suite),
            ]
            if suite and subprocess.run(command, cwd=COPY, capture_output=True, timeout=TIMEOUT_S).returncode:
                return False
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(kept)
    return True


def main() -> None:
    """Try a sample of every module, or of those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-module", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("module", nargs="*", help="core/tokens, for example")
    arguments = parser.parse_args()
    copy()
    equivalent = {line.partition("  #")[0] for line in EQUIVALENT.read_text().splitlines()}
    tried = killed = 0
    for path in sorted((ROOT / "verifier").rglob("*.py")):
        every = mutants(path)
        if arguments.module and every and every[0].module not in arguments.module:
            continue
        chance = random.Random(f"{arguments.seed} {path.name}")  # noqa: S311 - repeatable on purpose
        sample = chance.sample(every, min(arguments.per_module, len(every)))
        for mutant in sample:
            shown = f"{mutant.module}: {mutant.change}"
            if shown in equivalent:
                continue
            tried += 1
            if survives(mutant):
                print(f"survived: {shown}", flush=True)
            else:
                killed += 1
    print(f"{killed} of {tried} mutants killed ({killed / max(tried, 1):.1%}), seed {arguments.seed}")
    sys.exit(killed < TARGET * tried)


if __name__ == "__main__":
    main()
