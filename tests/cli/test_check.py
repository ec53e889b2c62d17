"""The command `verifier check`."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.conformance.support import PRIVATE, valid_token
from tests.conftest import APPLICATION_ID, ISSUER, SECRET
from tests.support.terminal import run_in_terminal
from verifier.cli.main import cli
from verifier.conformance import cases, invariants


@pytest.fixture
def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`verifier check` in this process, with everything from the environment but what signs."""
    monkeypatch.setenv("VERIFIER_APPLICATION_ID", APPLICATION_ID)
    monkeypatch.setenv("VERIFIER_SECRET_KEY", SECRET)
    monkeypatch.setenv("VERIFIER_ISSUER", ISSUER)

    def check(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["check", *map(str, arguments)], **options)

    return check


def test_check_says_that_all_is_well(check, ours, folder):
    result = check(f"http://127.0.0.1:{ours.port}/profile", "--keys", folder, "--strict")
    must, should, following = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"must    \d+ pass, 0 fail, 0 skipped", must)
    assert re.fullmatch(r"should  \d+ pass, 0 fail, 0 skipped", should)
    assert following == (
        "next    deploy it behind TLS, and check its public https URL before you enter that in the escs dashboard"
    )


def test_check_lists_the_cases_without_a_request(check):
    lines = check("--list").stdout.splitlines()
    assert len(lines) == len(cases.CASES) + len(invariants.INVARIANTS)
    assert lines[0].split(None, 3) == ["profile", "must", "profile-full", "a valid token"]
    assert len(check("--list", "--only", "http").stdout.splitlines()) == sum(c.group == "http" for c in cases.CASES)


@pytest.mark.parametrize(("only", "requests"), [(["alg-none"], 1), (["http", "crit"], 8), (["no-store", "clock"], 1)])
def test_check_sends_nothing_else(check, serve, folder, only, requests):
    web = serve()
    result = check(web.url, "--keys", folder, *(word for name in only for word in ("--only", name)))
    assert (result.exit_code, web.requests) == (0, requests)


@pytest.mark.parametrize(
    ("wrong", "options", "status"),
    [("", ["--strict"], 0), ("cache", [], 0), ("cache", ["--strict"], 1), ("nulls", [], 1), ("redirect", [], 1)],
)
def test_check_exits_with_1_for_findings(check, serve, folder, wrong, options, status):
    assert check(serve(wrong).url, "--keys", folder, *options).exit_code == status


def test_check_shows_what_failed_and_how_to_fix_it(check, serve, folder, pairs):
    result = check(serve("no secret").url, "--keys", folder, "--only", "secret-true", "--only", "kid-missing")
    kid = pairs["ES256"].kid
    assert result.stdout.splitlines() == [
        "FAIL  must    secret-true: secretKey true: accepted",
        f'      request   POST /profile, secretKey true; token header {{"alg": "ES256", "kid": "{kid}", '
        '"typ": "at+jwt"}',
        '      response  200, application/json: {"_id": "<withheld>", "email": "<withheld>", "username": "<withheld>"}',
        f"      impact    {cases.SECRET.impact}",
        f"      fix       {cases.SECRET.fix}",
        "must    0 pass, 1 fail, 0 skipped",
        "should  1 pass, 0 fail, 0 skipped",
        "next    apply the fixes and run the same command again: the endpoint is not ready for escs",
    ]


def test_check_writes_json_and_junit(check, serve, pairs, tmp_path):
    (tmp_path / "token").write_text(valid_token(pairs["ES256"]))
    report = tmp_path / "report.xml"
    result = check(serve("cache").url, "--token", tmp_path / "token", "--json", "--junit", report)
    found = json.loads(result.stdout)
    failed = [case for case in found["cases"] if case["outcome"] == "fail"]
    assert [(case["id"], case["problem"]) for case in failed] == [("no-store", f"{found['requests']} responses")]
    assert failed[0]["response"].endswith(f"and {found['requests'] - 5} more")
    assert found["must"]["fail"] == 0
    root = ElementTree.parse(report).getroot()  # noqa: S314
    assert [suite.get("name") for suite in root] == ["must", "should"]
    for suite in root:
        counts = found[suite.get("name")]
        assert (suite.get("failures"), suite.get("skipped")) == (str(counts["fail"]), str(counts["skip"]))
        assert (len(suite), len(suite.findall(".//failure"))) == (sum(counts.values()), counts["fail"])
    failure = root.find(".//failure")
    assert failure.get("message") == failed[0]["problem"]
    assert f"fix: {failed[0]['fix']}" in failure.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://game.example/", "--token", "-"], "plain http exposes the secret"),
        (["--token", "-"], "the URL is missing (expected https://host/path)"),
        (["game.example/profile", "--token", "-"], "https:// is missing (expected https://game.example/profile)"),
        (["https://game.example/", "--only", "alg-nome", "--token", "-"], "unknown case or group: alg-nome"),
        (["https://game.example/"], "give --keys, --private-key and --kid, or --token"),
        (["https://game.example/", "--keys", ".", "--token", "-"], "give one of --keys, --private-key and --token"),
        (["https://game.example/", "--private-key", "{pem}"], "a key needs --issuer, and --private-key also --kid"),
        (
            ["https://game.example/", "--private-key", "{secret}", "--kid", "x"],
            "{secret}: not an unencrypted private key",
        ),
        (
            ["https://game.example/", "--token", "-", "--application-id", ""],
            "it is empty; expected TEXT: From the escs",
        ),
        (["https://game.example/", "--token", "-", "--only", "exp-past"], "no request was sent"),
        (["https://game.example/", "--token", "-", "--timeout", "0"], "0.1<=x<=600"),
    ],
)
def test_a_wrong_use_of_check_exits_with_2(check, folder, pairs, arguments, message):
    files = {"pem": folder / "private" / f"{pairs['ES256'].kid}.pem", "secret": folder / "secret"}
    result = check(*(argument.format(**files) for argument in arguments), input="a-token")
    assert result.exit_code == 2
    assert message.format(**files) in result.stderr


def test_check_needs_the_secret(check, monkeypatch):
    monkeypatch.delenv("VERIFIER_SECRET_KEY")
    result = check("https://game.example/", "--token", "-", input="a-token")
    assert (result.exit_code, "the secret key is missing" in result.stderr) == (2, True)


def test_check_takes_key_token_and_secret_from_files_or_the_environment(check, serve, folder, pairs, monkeypatch):
    url, pair = serve().url, pairs["ES256"]
    key_file = folder / "private" / f"{pair.kid}.pem"
    assert check(url, "--private-key", key_file, "--kid", pair.kid).exit_code == 0
    monkeypatch.setenv("VERIFIER_TOKEN", valid_token(pair))
    assert check(url).exit_code == 0
    monkeypatch.setenv("VERIFIER_SECRET_KEY", "another")
    assert check(url).exit_code == 1
    assert check(url, "--secret-file", folder / "secret").exit_code == 0


def test_on_a_terminal_check_prompts_for_the_secret_and_shows_progress(serve, pairs):
    environment = {"VERIFIER_APPLICATION_ID": APPLICATION_ID, "VERIFIER_TOKEN": valid_token(pairs["ES256"])}
    command = ("check", serve().url, "--only", "alg-none")
    with run_in_terminal(*command, environment=environment, stdout=subprocess.PIPE) as terminal:
        terminal.read_until("Secret key: ")
        terminal.write(f"{SECRET}\n")
        output, _ = terminal.process.communicate(timeout=10)
        shown = terminal.read_until()
    assert terminal.process.returncode == 0
    assert "1 of 1  alg-none" in shown
    assert SECRET not in shown
    assert output.decode().splitlines() == [
        "must    1 pass, 0 fail, 0 skipped",
        "should  0 pass, 0 fail, 0 skipped",
        "next    run it without --only: the other cases decide whether the endpoint is ready for escs",
    ]


HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp\x00\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        f"HTTP/1.1 401 x\r\nContent-Type: a\x1b[31m\r\n\r\n{json.dumps({'error_description': HOSTILE})}",
        f'HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer error_description="\x1b[31mred"\r\n\r\n{HOSTILE}',
        f"HTTP/1.1 200 x\r\n\r\n{json.dumps({'_id': 'player', HOSTILE: 'a'})}",
        "HTTP/1.1 302 x\r\nLocation: /\x1b[31mred\r\n\r\n",
        "HTTP/1.1 502 x\r\nVia: \x1b[31mred\r\n\r\n",
        "HTTP/1.1 \x1b[31mred\r\n\r\n",
    ],
    ids=["description", "challenge", "member", "location", "via", "status-line"],
)
def test_nothing_that_an_endpoint_sends_reaches_the_terminal_unescaped(listen, pairs, sent):
    environment = {
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
        "VERIFIER_TOKEN": valid_token(pairs["ES256"]),
        "PYTHONIOENCODING": "utf-8",
    }
    command = ("check", listen([sent.encode()]), "--only", "profile-full")
    with run_in_terminal(*command, environment=environment) as terminal:
        text = terminal.read_until()
        assert terminal.process.wait(timeout=10) == 1
    assert "FAIL  must    profile-full" in text
    assert all(c.isprintable() for c in text.replace("\r", "").replace("\n", ""))
    assert "[31mred" not in re.sub(r"\\(x1b|u001b)\[31mred", "", text)
    assert "[31mred" in text or "not HTTP" in text


def test_an_unknown_case_is_named_without_control_characters(check):
    result = check("https://game.example/", "--only", "a\x1b[31m", "--token", "-", input="a-token")
    assert r"unknown case or group: a\x1b[31m; see --list" in result.stderr


@pytest.mark.parametrize("wrong", ["echo", "no signature", "no secret", "200", "redirect"])
@pytest.mark.parametrize("options", [["--json"], []])
def test_check_never_shows_secret_token_or_player(check, serve, pairs, tmp_path, wrong, options):
    token = valid_token(pairs["ES256"])
    (tmp_path / "token").write_text(token)
    web, report = serve(wrong), tmp_path / "report.xml"
    result = check(f"{web.url}?api-key=canary-query", "--token", tmp_path / "token", "--junit", report, *options)
    assert result.stdout
    shown = result.output + report.read_text()
    for private in (SECRET, SECRET[:-1], "canary-query", *PRIVATE, *token.split(".")):
        assert private not in shown
