"""docs/embedding.md as printed: its applications, and its commands on real ASGI servers."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import free_port
from tests.support.asgi import PROFILE, REVOCATION_S, ROOT, check, run, seconds_until_rejected, server_command

PAGE = (ROOT / "docs" / "embedding.md").read_text()
COMMANDS = {line.split()[0]: line for line in re.findall(r"(?m)^\w+ verifier\.asgi:app (?!--root-path).+", PAGE)}
EXAMPLES = ROOT / "examples" / "embedding"
PREFIXES = {"prefix": "/escs", "root": "", "one_route": "", "composed_lifespan": "/escs"}


def test_the_page_shows_every_application_and_server():
    assert set(PREFIXES) == {path.stem for path in EXAMPLES.glob("*.py")}
    assert [f"```python\n{(EXAMPLES / name).with_suffix('.py').read_text()}```\n" in PAGE for name in PREFIXES] == [
        True
    ] * 4
    assert PAGE.count("```python") == len(PREFIXES)
    assert list(COMMANDS) == ["uvicorn", "gunicorn", "hypercorn", "granian"]


@pytest.mark.parametrize("name", PREFIXES)
def test_an_application_of_the_page_passes_the_check_and_reloads(name, game, game_environment, game_request):
    prefix, port = PREFIXES[name], free_port()
    command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--app-dir", str(EXAMPLES), "--port", str(port)]
    with run([*command, "--no-server-header"], port, game, game_environment) as running:
        assert running.request("/") == (200, "the game")
        # With one route, the responses to other paths are the host's own.
        assert check(running, prefix, game, *([] if name == "one_route" else ["--strict"])) == ""
        assert seconds_until_rejected(running, f"{prefix}/profile", game_request, game) < REVOCATION_S


@pytest.mark.parametrize("program", COMMANDS)
def test_a_server_of_the_page_passes_the_check_and_reloads(program, game, game_environment, game_request):
    port = free_port()
    with run(server_command(COMMANDS[program], port), port, game, game_environment) as running:
        assert check(running, "", game, "--strict") == ""
        assert seconds_until_rejected(running, "/profile", game_request, game) < REVOCATION_S


def test_a_root_path_is_stripped(game, game_environment, game_request):
    (line,) = re.findall(r"(?m)^uvicorn .+ --root-path .+", PAGE)
    port = free_port()
    with run(server_command(line, port), port, game, game_environment) as running:
        assert running.request("/profile", game_request) == PROFILE


@pytest.mark.parametrize("program", COMMANDS)
def test_an_invalid_setting_is_named(program, game, game_environment):
    del game_environment["VERIFIER_ISSUER"]
    done = subprocess.run(
        server_command(COMMANDS[program], free_port()),
        cwd=game,
        env=os.environ | game_environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "verifier: error: VERIFIER_ISSUER is not set" in done.stderr
    assert done.returncode == {"uvicorn": 3, "gunicorn": 3, "hypercorn": 0, "granian": 1}[program]
