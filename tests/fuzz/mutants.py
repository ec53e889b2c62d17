"""Mutation testing of the four modules that decide: python -m tests.fuzz.mutants [--functions | --tables].

Works in a copy of the tree, .mutants. Functions are mutated by mutmut (its settings: pyproject.toml), and
what survives there is tried again in a process of its own, because mutmut switches mutants on after the import.
What mutmut leaves alone, the tables and constants outside functions, is mutated here: each number, text, entry
and neighbour. Prints the figures and every survivor; exit status 1 when less than 95 % of a module's are killed.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COPY = ROOT / ".mutants"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
MODULES = [Path(name).stem for name in SETTINGS["only_mutate"]]
LEAST = 0.95


def copy() -> None:
    """The tree without what is not in the repository."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)


def no_test_fails(folder: Path, module: str, **environment: str) -> bool:
    """Whether the selected tests see nothing; those of the module are asked first, which is faster."""
    selected = SETTINGS["pytest_add_cli_args_test_selection"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    for chosen in ([f"tests/core/test_{module}.py"], selected):
        try:
            done = subprocess.run(
                [*command, *chosen], cwd=folder, env=os.environ | environment, capture_output=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


def functions() -> tuple[Counter[str], list[str]]:
    """How many mutants of functions there are in each module, and what survives."""
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run"], cwd=COPY, stdout=subprocess.DEVNULL, check=True)
    listed = subprocess.run([*mutmut, "results", "--all", "true"], cwd=COPY, capture_output=True, text=True, check=True)
    totals: Counter[str] = Counter()
    alive = []
    for mutant, result in re.findall(r"(?m)^\s*(verifier\.\S+): (.+)$", listed.stdout):
        totals[mutant.split(".")[1]] += 1
        if result not in ("killed", "timeout") and no_test_fails(
            COPY / "mutants", mutant.split(".")[1], MUTANT_UNDER_TEST=mutant
        ):
            shown = subprocess.run([*mutmut, "show", mutant], cwd=COPY, capture_output=True, text=True).stdout
            lines = re.findall(r"(?m)^([-+](?![-+]).*)$", shown)
            alive.append(f"{mutant}: {' '.join(line[0] + line[1:].strip() for line in lines)}")
            print(alive[-1], flush=True)
    return totals, alive


def mutations(source: str) -> Iterator[tuple[str, str]]:
    """What was changed, and the source in which it is, for everything that is not in a function."""

    def outside(node: ast.AST) -> Iterator[ast.AST]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "keywords") and not isinstance(node, ast.Call):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.FunctionDef | ast.Lambda | ast.Import | ast.ImportFrom):
                    continue
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue  # a docstring
                if isinstance(child, ast.AST):
                    yield child
                    yield from outside(child)

    tree = ast.parse(source)
    for node in list(outside(tree)):
        before, line = ast.unparse(node) if isinstance(node, ast.expr) else "", getattr(node, "lineno", 0)

        def mutant(before: str = before, line: int = line, node: ast.AST = node) -> tuple[str, str]:
            return f"line {line}: {before[:70]} -> {ast.unparse(node)[:70]}", ast.unparse(tree)

        if isinstance(node, ast.Constant) and type(node.value) in (int, str, bool):
            value = node.value
            node.value = not value if type(value) is bool else value + 1 if type(value) is int else f"XX{value}XX"
            yield mutant()
            node.value = value
        elif isinstance(node, ast.Tuple | ast.List | ast.Set) and isinstance(
            getattr(node, "ctx", ast.Load()), ast.Load
        ):
            kept = node.elts
            for n in range(len(kept)):
                node.elts = kept[:n] + kept[n + 1 :]
                yield mutant()
                if n and not isinstance(node, ast.Set):
                    node.elts = [*kept[: n - 1], kept[n], kept[n - 1], *kept[n + 1 :]]
                    yield mutant()
            node.elts = kept
        elif isinstance(node, ast.Dict):
            keys, values = node.keys, node.values
            for n in range(len(keys)):
                node.keys, node.values = keys[:n] + keys[n + 1 :], values[:n] + values[n + 1 :]
                yield mutant()
            node.keys, node.values = keys, values
        elif isinstance(node, ast.BinOp):
            op = node.op
            node.op = {ast.Sub: ast.Add, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd}.get(type(op), ast.Sub)()
            yield mutant()
            node.op = op


def tables() -> tuple[Counter[str], list[str]]:
    """The same for what is outside functions."""
    totals: Counter[str] = Counter()
    alive = []
    for module in MODULES:
        path = COPY / "verifier" / f"{module}.py"
        source = path.read_text()
        for what, changed in mutations(source):
            totals[module] += 1
            path.write_text(changed)
            if no_test_fails(COPY, module):
                alive.append(f"verifier.{module}: {what}")
                print(alive[-1], flush=True)
        path.write_text(source)
    return totals, alive


def main() -> int:
    copy()
    assert no_test_fails(COPY, "tokens"), "the tests fail without a mutant"
    kinds = {"functions": functions, "tables": tables}
    chosen = [kinds[name] for name in kinds if f"--{name}" in sys.argv] or list(kinds.values())
    total: Counter[str] = Counter()
    survivors: list[str] = []
    for kind in chosen:
        found, alive = kind()
        total += found
        survivors += alive
    lived = Counter(survivor.split(":")[0].split(".")[1] for survivor in survivors)
    for module in MODULES:
        killed = total[module] - lived[module]
        print(f"{module:<12}  {killed:>4} of {total[module]:>4} mutants killed, {killed / max(1, total[module]):.1%}")
    return int(any(lived[module] > total[module] * (1 - LEAST) for module in MODULES))


if __name__ == "__main__":
    sys.exit(main())
