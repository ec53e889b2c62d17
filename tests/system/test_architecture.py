"""The boundaries of the package, what the server may load, and documents that agree with the code."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import is_dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import verifier
from verifier.cli.main import cli
from verifier.errors import Reason
from verifier.server.settings import Settings

PACKAGE = Path(verifier.__file__).parent
ROOT = PACKAGE.parent


def run(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


@pytest.mark.parametrize("module", ["verifier.server.run", "verifier.server.endpoints", "verifier"])
def test_importing_what_serves_loads_nothing_that_signs_or_writes(module):
    loaded = run(f"import sys, {module}; print([m for m in sys.modules if m.startswith('verifier.')])")
    forbidden = ("verifier.signing", "verifier.rotation", "verifier.conformance", "verifier.cli")
    assert not [name for name in loaded if name.startswith((*forbidden, "verifier.storage.atomic"))]


FORBIDDEN_IN_CORE = {
    "os",
    "io",
    "pathlib",
    "socket",
    "time",
    "asyncio",
    "threading",
    "subprocess",
    "shutil",
    "tempfile",
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_opens_no_file_or_socket_and_reads_no_clock(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not imported & FORBIDDEN_IN_CORE
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    methods = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert not called & {"open", "print", "input"}
    assert not methods & {"now", "utcnow", "today"}  # of datetime


def test_the_folders_form_a_small_graph_without_a_cycle():
    graph = grimp.build_graph("verifier", cache_dir=None)

    def folder(module):
        return [*module.split("."), "__init__"][1]

    below = {folder(module): set() for module in graph.modules}
    for module in graph.modules:
        below[folder(module)] |= {folder(name) for name in graph.find_modules_directly_imported_by(module)}
    below = {name: names - {name} for name, names in below.items()}
    layers = {}
    for name in TopologicalSorter(below).static_order():  # a cycle raises CycleError
        layers[name] = 1 + max((layers[lower] for lower in below[name]), default=0)
    assert len(below) <= 12
    assert max(layers.values()) <= 8
    assert sum(map(len, below.values())) <= 35


def test_where_the_guide_says_that_something_is_it_is():
    rows = re.findall(r"(?m)^\| .+ \| `(\w[\w/]+\.py)` \| (`.+`) \|$", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(rows) >= 20
    for path, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            definition = rf"(?m)^ *(async def|def|class) {name}\b|^{name}\b.* = "
            assert re.search(definition, (PACKAGE / path).read_text()), f"{path}: {name}"


def test_every_data_class_is_frozen():
    found = []
    for path in PACKAGE.rglob("[a-z]*.py"):
        if path.name != "asgi.py" or path.parent != PACKAGE:  # it reads the environment
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            found += [thing for thing in vars(module).values() if isinstance(thing, type) and is_dataclass(thing)]
    assert len(found) > 30
    assert [thing for thing in found if not thing.__dataclass_params__.frozen] == []


def test_no_file_is_too_long_to_read():
    limits = {"connection.py": 450}
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= limits.get(path.name, 400), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path}:{node.name}"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"from verifier import {', '.join(verifier.__all__)}", ""),
        ("from verifier import TokenIsuer", 'Module "verifier" has no attribute "TokenIsuer"'),
    ],
)
def test_a_misspelt_import_fails_the_type_check(tmp_path, line, error):
    (tmp_path / "game.py").write_text(f"{line}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "game.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}
    )
    assert (error in done.stdout) if error else (done.returncode == 0), done.stdout


def test_a_name_that_needs_the_extra_says_so_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "verifier.server.endpoints", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        verifier.__getattr__("create_app")
    assert caught.value.__notes__ == ["hint: pip install 'escs-verifier[server]'"]


def test_what_is_imported_is_declared():
    declared = {
        "starlette",
        "uvicorn",
        "httptools",
        "jwt",
        "cryptography",
        "click",
        "jinja2",
        "structlog",
        "orjson",
        "pybase64",
        "prometheus_client",
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in declared | {"verifier"} | sys.stdlib_module_names


def test_every_reason_is_documented_with_its_status_and_text():
    documented = re.findall(r"(?m)^### (\w+)\n\n(\d+) `(.+)`\n\n\S", (ROOT / "docs" / "errors.md").read_text())
    assert [name for name, _, _ in documented] == [reason.value for reason in Reason]
    for (_, status, text), reason in zip(documented, Reason, strict=True):
        pattern = re.sub(r"\\{\w+\\}", r"[\\w ,]+", re.escape(reason.text))
        assert int(status) == reason.status
        assert re.fullmatch(pattern, text), reason


def help_pages(group=cli, path=("verifier",)):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from help_pages(command, (*path, name))


def test_the_reference_names_every_command_and_setting():
    commands = re.findall(r"(?m)^## (verifier.*)$", (ROOT / "docs" / "cli.md").read_text())
    assert sorted(commands) == sorted(" ".join(path) for path in help_pages())
    settings = re.findall(r"(?m)^\| `(VERIFIER_\w+)` \| ", (ROOT / "docs" / "configuration.md").read_text())
    options = [option.variable for option in Settings.options()]
    assert settings[: len(options)] == options


def find(path):
    command = cli
    for name in path[1:]:
        command = command.commands[name]
    return command


def test_every_documented_reason_has_a_fix():
    sections = re.split(r"(?m)^### (?=\w+$)", (ROOT / "docs" / "errors.md").read_text())[1:]
    assert [section.split()[0] for section in sections if "\n**Fix:** " not in section] == []


def test_the_changelog_names_every_command_and_every_public_name():
    text = (ROOT / "CHANGELOG.md").read_text()
    names = {" ".join(path[1:] if len(path) > 2 else path) for path in help_pages() if len(path) > 1}
    names |= {name for name in verifier.__all__ if not name.startswith("_")}
    assert sorted(name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)) == []


def test_openapi_and_the_package_have_one_version():
    document = json.loads((PACKAGE / "server" / "openapi.json").read_text())
    assert document["info"]["version"] == verifier.__version__
    assert f"## [{verifier.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_locks_name_no_host():
    for path in (*ROOT.glob("*.lock"), *ROOT.glob("tests/*/*.lock"), *ROOT.glob("tests/languages/*/requirements.lock")):
        assert "://" not in path.read_text()
        assert "--hash=sha256:" in path.read_text()


def test_the_package_exports_what_it_names():
    assert list(verifier.__all__) == sorted(verifier.__all__)
    exported = {name: getattr(verifier, name) for name in verifier.__all__}
    assert exported["TokenVerifier"].__module__ == "verifier.storage.token_verifier"
    assert all(issubclass(exported[name], verifier.VerifierError) for name in exported if name.endswith("Error"))
    with pytest.raises(AttributeError, match=r"^module 'verifier' has no attribute 'nonsense'$"):
        verifier.nonsense  # noqa: B018


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_subpackage_states_its_limits_and_exports_what_it_names(path):
    module = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    assert module.__doc__
    assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))
