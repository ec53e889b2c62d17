"""A plain install, without the extra `server`: issuing, verifying and key commands work, the others name the extra."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import APPLICATION_ID, ISSUER
from verifier.cli.main import SERVER_MODULES

ROOT = Path(__file__).parents[2]
# Runs the command as if the modules of the extra were not installed.
PLAIN = f"""
import sys
for name in {sorted(SERVER_MODULES)!r}:
    sys.modules[name] = None
from verifier.cli.main import main
main()
"""


def plain(*arguments: object, code: str = PLAIN, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=kept | environment, timeout=60)


def test_the_modules_of_the_extra_are_the_ones_that_may_be_missing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=;]", entry)[0].replace("-", "_") for entry in project["optional-dependencies"]["server"]}
    assert names == SERVER_MODULES


@pytest.mark.parametrize(
    "arguments", [("serve",), ("keys", "report", "--html", "report.html")], ids=lambda arguments: " ".join(arguments)
)
def test_a_command_that_needs_the_extra_names_it(environment, keys, arguments):
    done = plain(*arguments, **environment)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(
        r"verifier: error: this command needs the module \w+, which is not installed\n"
        rf"verifier: hint: {re.escape(sys.executable)} -m pip install 'escs-verifier\[server\]'\n",
        done.stderr,
    )


def test_keys_and_tokens_need_no_extra(tmp_path):
    folder = tmp_path / "keys"
    assert plain("keys", "generate", "--keys", folder).returncode == 0
    for command in (("list",), ("audit",), ("audit", "--json"), ("report", "--json")):
        assert plain("keys", *command, "--keys", folder).returncode == 0
    options = ("--keys", folder, "--issuer", ISSUER, "--application-id", APPLICATION_ID)
    token = plain("token", "42", *options)
    assert token.returncode == 0, token.stderr
    code = (
        PLAIN.replace("from verifier.cli.main import main\nmain()", "")
        + f"""
from verifier import TokenIssuer, TokenVerifier
print(TokenVerifier.from_directory({str(folder)!r}, issuer={ISSUER!r}, application_id={APPLICATION_ID!r}).verify(
    {token.stdout.strip()!r}).id)
"""
    )
    done = plain(code=code)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
