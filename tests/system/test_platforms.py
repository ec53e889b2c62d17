"""docs/platforms.md as printed: the image's files and variables, the port, and the handler for a function service."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port
from tests.support.asgi import PROFILE, REVOKED, ROOT, SERVERS, revoke, run, summary
from tests.support.sockets import until

PAUSE_S = 3.5  # longer than what the page says
PAGE = (ROOT / "docs" / "platforms.md").read_text()


DOCKERFILE = ROOT / "deploy" / "platforms" / "Dockerfile"
HANDLER = ROOT / "tests" / "servers" / "handler.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.+?)^```", PAGE)


def test_the_page_shows_what_is_run():
    assert blocks("dockerfile") == [DOCKERFILE.read_text()]
    assert blocks("python") == [HANDLER.read_text()]
    assert PAGE.count("```") == 2 * (2 + len(blocks("sh")))


@pytest.fixture
def image(game: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """What the Dockerfile of the page adds to the image: files under a root directory, and variables."""
    root, variables = tmp_path / "image", {"VERIFIER_KEYS": "/keys"}  # the second is in our own Dockerfile
    assert "VERIFIER_KEYS=/keys" in (ROOT / "Dockerfile").read_text()
    for command in blocks("sh"):
        subprocess.run(["sh", "-ec", command], cwd=game, check=True)
    ignored = (game / ".dockerignore").read_text().split()
    for line in DOCKERFILE.read_text().splitlines():
        instruction, *arguments = shlex.split(line)
        if instruction == "COPY":
            source, target = arguments
            assert f"!{source}" in ignored
            destination = root / target.lstrip("/")
            destination.parent.mkdir(parents=True, exist_ok=True)
            path = game / source
            shutil.copytree(path, destination) if path.is_dir() else shutil.copy(path, destination)
        elif instruction == "ENV":
            variables |= dict(argument.split("=", 1) for argument in arguments)
        else:
            assert (instruction, arguments) == ("FROM", ["verifier"])
    return root, {name: value if "://" in value else f"{root}{value}" for name, value in variables.items()}


def test_the_image_of_the_page_serves_on_the_port_of_the_platform(image, game_request, tmp_path):
    _, variables = image
    port = free_port()
    command = [sys.executable, "-m", "verifier", "serve"]
    with run(command, port, tmp_path, variables | {"PORT": str(port)}) as running:
        assert running.request("/profile", game_request) == PROFILE
        health = [sys.executable, "-m", "verifier", "healthcheck"]
        environment = os.environ | {"PORT": str(port)}
        # Again where the machine is too busy for the 3 s of a health check.
        assert until(lambda: subprocess.run(health, env=environment, capture_output=True).stdout == b"ready\n", 30)
        assert running.stop() == 0


def test_every_file_of_the_image_may_be_read_by_any_user(image):
    root, _ = image
    assert not (root / "keys" / "private").exists()
    for path in root.rglob("*"):
        assert path.stat().st_mode & (0o005 if path.is_dir() else 0o004), path


def test_the_verifiers_own_port_wins(game_environment, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "verifier", "serve"]
    variables = game_environment | {"PORT": str(free_port()), "VERIFIER_PORT": str(port)}
    with run(command, port, tmp_path, variables) as running:
        assert running.request("/healthz")[0] == 200


# Events as AWS documents them, with the body that escs posts.


def http_api(body: bytes) -> dict[str, Any]:
    """API Gateway HTTP API, or a Lambda function URL: payload format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "POST /profile",
        "rawPath": "/profile",
        "rawQueryString": "",
        "headers": {
            "accept-encoding": "gzip",
            "content-length": str(len(body)),
            "content-type": "application/json",
            "host": "id.execute-api.eu-central-1.amazonaws.com",
            "x-amzn-trace-id": "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e",
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "id",
            "http": {
                "method": "POST",
                "path": "/profile",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "escs",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "POST /profile",
            "stage": "$default",
            "time": "25/Nov/2026:12:00:00 +0000",
            "timeEpoch": 1795608000000,
        },
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def rest_api(body: bytes) -> dict[str, Any]:
    """API Gateway REST API: payload format 1.0, with a stage that is not part of the path."""
    headers = {"Content-Type": "application/json", "Host": "id.execute-api.eu-central-1.amazonaws.com"}
    return {
        "resource": "/profile",
        "path": "/profile",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "httpMethod": "POST",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "escs"},
            "path": "/prod/profile",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "resourcePath": "/profile",
            "stage": "prod",
        },
        "body": body.decode(),
        "isBase64Encoded": False,
    }


@dataclass(frozen=True)
class Function:
    """The handler of the page in a process of its own, which a function service freezes between events."""

    process: "subprocess.Popen[str]"

    def call(self, event: dict[str, Any]) -> tuple[int, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()
        response = json.loads(self.process.stdout.readline())
        return response["statusCode"], summary(response["body"].encode())


@pytest.fixture(params=["off", "auto"])
def function(request: pytest.FixtureRequest, game_environment: dict[str, str], tmp_path: Path) -> Iterator[Function]:
    """`auto` is Mangum's default for its lifespan."""
    if not (SERVERS / "python").exists():
        pytest.skip("Mangum is not installed: make tests/servers/.venv")
    handler = tmp_path / "handler.py"
    handler.write_text(HANDLER.read_text().replace('lifespan="off"', f'lifespan="{request.param}"'))
    process = subprocess.Popen(
        [SERVERS / "python", ROOT / "tests" / "servers" / "function.py", handler],
        env=os.environ | game_environment | {"PYTHONPATH": str(ROOT), "VERIFIER_LOG_LEVEL": "error"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Function(process)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("event", [http_api, rest_api])
def test_the_handler_of_the_page_returns_the_profile(event, function, game_request):
    assert function.call(event(game_request)) == PROFILE
    assert function.call(event(game_request)) == PROFILE


def test_a_revoked_key_is_rejected_by_the_first_response_after_a_pause(function, game, game_request):
    assert function.call(http_api(game_request)) == PROFILE
    function.process.send_signal(signal.SIGSTOP)
    revoke(game)
    time.sleep(PAUSE_S)  # not a condition that could be queried: nothing runs
    function.process.send_signal(signal.SIGCONT)
    assert function.call(http_api(game_request)) == REVOKED
