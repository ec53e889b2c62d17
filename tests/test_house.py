"""The house: layers, what serves cannot sign, and texts that agree."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import verifier
from tests.contract import refusal_texts
from verifier import cli

PACKAGE = Path(verifier.__file__).parent
ROOT = PACKAGE.parent
# An import points down, never sideways in a layer, never up.
LAYERS = [
    {"errors", "encoding", "times"},
    {"jwk", "settings", "files", "history", "replicas"},
    {"keyring", "applications"},
    {"tokens", "rotation"},
    {"telemetry", "metrics"},
    {"keystore", "app", "audit", "diagnosis", "timeline"},
    {"issuer", "protocol", "report"},
    {"server"},
    {"dev", "options"},
    {"cli_keys", "cli_applications"},
    {"cli"},
]


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in it; the lazy ones of the package apart."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "verifier":
            found |= {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("verifier."):
            found |= {(node.module or "").split(".")[1]} & {path.stem for path in PACKAGE.glob("*.py")}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("verifier.")}
    return found


MODULES = {path.stem: imports(path) for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def test_every_module_has_a_layer():
    assert set(MODULES) == set().union(*LAYERS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_import_points_down(name):
    level = next(n for n, layer in enumerate(LAYERS) if name in layer)
    below = set().union(*LAYERS[:level])
    assert MODULES[name] <= below


def reachable(name: str) -> set[str]:
    found, todo = set(), [name]
    while todo:
        module = todo.pop()
        todo += MODULES[module] - found
        found |= {module} | MODULES[module]
    return found


def test_what_serves_cannot_sign():
    assert not {"keystore", "issuer", "dev", "audit"} & (reachable("app") | reachable("server"))
    for name in reachable("server"):
        assert "private" not in re.findall(r"load_\w*?(private)\w*", (PACKAGE / f"{name}.py").read_text())


def test_importing_the_server_loads_nothing_that_signs():
    code = "import sys, verifier.server; print(sorted(m for m in sys.modules if m.startswith('verifier.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    # Metrics are loaded where their port is set.
    assert loaded == {f"verifier.{name}" for name in reachable("server") - {"metrics"}}


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
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in declared | {"verifier"} | sys.stdlib_module_names


def test_every_refusal_is_in_the_readme():
    listed = re.findall(r"(?m)^\| `([^`]+)` \|", (ROOT / "README.md").read_text())
    patterns = refusal_texts()
    assert len(patterns) > 30
    for pattern in patterns:
        assert any(re.fullmatch(pattern, text) for text in listed), pattern


def help_pages(group=cli.cli, path=("verifier",)):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from help_pages(command, (*path, name))


def test_the_readme_names_every_command_and_setting():
    readme = (ROOT / "README.md").read_text()
    for path in help_pages():
        assert f"`{' '.join(path)}`" in readme or not path[1:] or hasattr(find(path), "commands")
    for variable in set(re.findall(r"VERIFIER_[A-Z_]+", (PACKAGE / "settings.py").read_text())):
        assert f"`{variable}`" in readme


def find(path):
    command = cli.cli
    for name in path[1:]:
        command = command.commands[name]
    return command


def test_openapi_and_the_package_have_one_version():
    document = json.loads((PACKAGE / "openapi.json").read_text())
    assert document["info"]["version"] == verifier.__version__
    assert f"## [{verifier.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_locks_name_no_host():
    for path in (*ROOT.glob("*.lock"), *ROOT.glob("tests/*/*.lock"), *ROOT.glob("tests/languages/*/requirements.lock")):
        assert "://" not in path.read_text()
        assert "--hash=sha256:" in path.read_text()


def test_the_package_exports_what_it_names():
    assert verifier.__all__ == ["CannotIssue", "ConfigError", "TokenIssuer", "__version__"]
    assert all(getattr(verifier, name) for name in verifier.__all__)
    with pytest.raises(AttributeError, match=r"^module 'verifier' has no attribute 'nonsense'$"):
        verifier.nonsense  # noqa: B018
