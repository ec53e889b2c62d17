"""Every console block of the documentation, run in a shell; its output compared line by line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]


def transcript(path: Path) -> list[tuple[str, str]]:
    """(command, output) of every `$` line in the ```console blocks of a document, in order."""
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", path.read_text()):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:].rstrip("\n"), ""))
            else:
                command, output = steps[-1]
                steps[-1] = (command, output + line)
    return steps


def run(steps: list[tuple[str, str]], folder: Path) -> list[str]:
    """The output of every command, all in one shell."""
    mark = "--- next ---"
    script = "".join(f"{command}\necho '{mark}'\n" for command, _ in steps)
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("VERIFIER_")}
    port = str(free_port())  # in the place of 8000, which may be taken
    script = script.replace("8000", port)
    environment = inherited | {
        "VERIFIER_PORT": port,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TZ": "UTC",
    }
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
    )
    return done.stdout.replace(port, "8000").split(f"{mark}\n")[:-1]


def matches(expected: str, found: str) -> bool:
    """Whether the output is the documented one; `...` stands for anything, in a line or as lines of its own."""
    pattern = re.escape(expected).replace(r"\.\.\.\.", r".*?\.").replace(r"\.\.\.", ".*?")
    return re.fullmatch(pattern, found, re.DOTALL) is not None


@pytest.mark.parametrize("document", ["README.md", "keys/README.md", "docs/issuing/index.md"])
def test_every_command_gives_the_output_shown(document, tmp_path):
    steps = transcript(ROOT / document)
    assert steps
    outputs = run(steps, tmp_path)
    for (command, expected), found in zip(steps, outputs, strict=True):
        assert matches(expected.rstrip(), found.rstrip()), f"$ {command}\n{found}\n--- expected ---\n{expected}"


def test_the_two_commands_of_the_readme_are_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)^make (\w+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"(?m)^{target}:", makefile)


def test_every_recipe_of_the_readme_is_the_tested_file():
    recipes = re.findall(
        r"(?s)<summary><code>(.+?)</code></summary>\n\n```\w+\n(.*?)```\n", (ROOT / "README.md").read_text()
    )
    assert len(recipes) == 2
    for path, text in recipes:
        assert (ROOT / path).read_text() == text
