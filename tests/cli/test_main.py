"""The command line: what it prints, where, and with which exit status."""

import json
import re
import subprocess
import sys

import pytest

from tests.cli.test_help import COMMANDS
from tests.conftest import APPLICATION_ID, ISSUER, NOW, Done, free_port
from verifier.cli.main import main
from verifier.cli.token import _describe_keys
from verifier.core import rules, tokens

OPTIONS = ("--issuer", ISSUER, "--application-id", APPLICATION_ID)


def test_every_command_has_help(run):
    assert run("--version") == Done(0, "verifier, version 0.1.0\n")
    pages = {path: run(*path.split(), "--help") for path in COMMANDS}
    assert {done.status for done in pages.values()} == {0}
    assert (
        "Exit status: 0 success, 1 check failed or change refused, 2 usage error, 3 configuration error."
        in " ".join(pages[""].out.split())
    )


def test_a_usage_error_is_2(run):
    assert run("nonsense").status == 2
    assert run("keys", "generate", "--alg", "HS256").status == 2


def test_token_prints_a_token_and_nothing_else(run, keys, verify):
    done = run("token", "42", "--email", "a@b.example", "--username", "ann", "--lifetime", 60, "--keys", keys, *OPTIONS)
    assert (done.status, done.err) == (0, "")
    assert verify(done.out.removesuffix("\n"), now=NOW + 59) == tokens.Player("42", "a@b.example", "ann")


def test_a_longer_lifetime_is_for_a_verifier_that_allows_it(run, keys):
    long = ("token", "42", "--lifetime", 600, "--keys", keys, *OPTIONS)
    text = "the lifetime must be from 1 s to the maximum (found 600 s, maximum 300 s)"
    assert run(*long) == Done(1, "", f"verifier: error: {text}\n")
    assert run(*long, "--max-lifetime", 600).status == 0


def test_token_refuses_what_the_verifier_would_refuse(run, keys):
    done = run("token", "", "--keys", keys, *OPTIONS)
    assert done == Done(1, "", "verifier: error: sub must be a non-empty string\n")


def test_token_without_a_key_names_the_fix(run):
    done = run("token", "42", *OPTIONS)
    text = "keys/public: no current key (found keys/public: cannot be read (No such file or directory))"
    hint = "correct the path, or create it: verifier keys generate --keys keys"
    assert done == Done(3, "", f"verifier: error: {text}\nverifier: hint: {hint}\n")


@pytest.mark.usefixtures("terminal")
def test_a_command_that_reads_a_terminal_states_what_it_waits_for(run, keys, issue):
    done = run("explain", "--keys", keys, *OPTIONS, stdin=f"{issue()}\n")
    assert (done.status, done.err) == (0, "Paste the token, then press Enter and Ctrl-D.\n")
    done = run("keys", "import", "-", stdin="{}")
    assert (done.status, done.err.splitlines()[0]) == (3, "Paste the input, then press Enter and Ctrl-D.")


def test_explain_accepts_a_good_token(run, keys, issue):
    done = run("explain", "--keys", keys, *OPTIONS, stdin=f"{issue()}\n")
    assert (done.status, done.err) == (0, "")
    assert "FAIL" not in done.out
    assert done.out.endswith("\n\naccepted\n")
    assert len(re.findall(r"(?m)^pass  ", done.out)) == 4 + len(rules.RULES)


def test_explain_without_a_key_directory_names_the_fix(run, tmp_path):
    assert run("explain", "--keys", tmp_path / "no" / "keys", *OPTIONS, stdin="x") == Done(
        3,
        "",
        f"verifier: error: {tmp_path}/no/keys/public: cannot be read (No such file or directory)\n"
        "verifier: hint: correct the path, or create it: "
        f"verifier keys generate --keys {tmp_path}/no/keys\n",
    )


def test_explain_names_every_failure_at_once_and_shows_no_personal_data(run, keys, issue):
    token = issue(header={"typ": "JWT"}, exp=(NOW + 60) * 1000, iss="x", email=["canary@x"], sub="canary-player")
    done = run("explain", "--keys", keys, *OPTIONS, stdin=token)
    failed = re.findall(r"(?m)^FAIL  (\w+)", done.out)
    assert (done.status, failed) == (1, ["typ", "iss", "exp", "email"])
    assert "typ is JWT, the default of JWT libraries; expected at+jwt (RFC 9068 §4" in done.out
    assert "4 of 18 checks failed" in done.out
    for part in ("canary", *token.split(".")):
        assert part not in done.out


def test_explain_as_json(run, keys, issue):
    document = json.loads(run("explain", "--json", "--keys", keys, *OPTIONS, stdin=issue(iat=NOW - 7)).out)
    assert document["accepted"] is False
    assert [(rule["reason"], rule["failure"]) for rule in document["rules"] if rule["failure"]] == [
        ("lifetime_too_long", "token lifetime exceeds the maximum of 300 s")
    ]


def test_explain_does_not_read_without_end(keys):
    command = [sys.executable, "-m", "verifier", "explain", "--keys", str(keys), *map(str, OPTIONS)]
    with open("/dev/zero", "rb") as zero:
        done = subprocess.run(command, stdin=zero, capture_output=True, text=True, timeout=60)
    says = "verifier: error: standard input is larger than 1048576 bytes (expected a token)\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", says)


@pytest.mark.parametrize("text", ["", "\n", " \r\n"])
def test_explain_names_an_empty_input(run, keys, text):
    assert run("explain", "--keys", keys, *OPTIONS, stdin=text) == Done(
        3,
        "",
        "verifier: error: standard input is empty (expected a token)\nverifier: hint: verifier explain ... < token\n",
    )


def test_explain_names_the_keys_that_are_there_if_the_kid_is_unknown(run, keys, issue):
    kids = sorted(f"{path.stem[:8]}..." for path in (keys / "public").glob("*.json"))
    done = run("explain", "--keys", keys, *OPTIONS, stdin=issue(header={"kid": "another"}))
    (line,) = re.findall(rf"(?m)^      {re.escape(str(keys))}/public has (.+)$", done.out)
    assert (done.status, sorted(line.split(", "))) == (1, kids)
    assert run("explain", "--keys", keys, *OPTIONS, stdin=issue()).out.count(" has ") == 0


def test_explain_names_few_of_many_keys(tmp_path):
    kids = [f"{number}-23456789" for number in range(9)]
    assert _describe_keys(tmp_path, []) == f"{tmp_path} has no key"
    assert _describe_keys(tmp_path, kids[:5]).count("...") == 5
    assert _describe_keys(tmp_path, kids) == (
        f"{tmp_path} has 8-234567..., 7-234567..., 6-234567..., 5-234567..., 4-234567... and 4 more"
    )


def test_explain_names_what_to_remove_and_checks_the_token_inside(run, keys, issue):
    done = run("explain", "--keys", keys, *OPTIONS, stdin=f"Bearer {issue(header={'typ': 'JWT'})}\n")
    assert re.findall(r"(?m)^FAIL  (\w+)", done.out) == ["form", "typ"]
    assert "characters: remove 'Bearer ' before the token\n" in done.out
    assert (done.status, "2 of 19 checks failed" in done.out, "skip" in done.out) == (1, True, False)


def test_explain_reads_what_is_no_token(run, keys):
    done = run("explain", "--keys", keys, *OPTIONS, stdin="nonsense")
    assert done.status == 1
    assert done.out == (
        "FAIL  form       1 part, 8 characters\n"
        "      malformed token: expected header.payload.signature (RFC 7515 §7.1)\n\n1 of 1 checks failed\n"
    )


def test_serve_says_which_setting_is_missing(run):
    done = run("serve")
    assert done.status == 3
    assert done.err.splitlines()[0] == "verifier: error: VERIFIER_ISSUER is not set (expected the iss of your tokens)"


def test_the_first_serve_prints_the_commands_that_create_keys_and_applications(run):
    first = "verifier keys generate --keys keys && verifier applications add my-application --file applications.json"
    error, hint = run("serve").err.splitlines()
    assert error == "verifier: error: VERIFIER_ISSUER is not set (expected the iss of your tokens)"
    assert hint == (
        f"verifier: hint: {first} && verifier serve --issuer https://game.example --applications applications.json"
    )
    options = ("serve", "--issuer", ISSUER, "--applications", "applications.json")
    assert run(*options) == Done(
        3,
        "",
        "verifier: error: keys/public and applications.json: no such file or directory\n"
        f"verifier: hint: correct the path, or create what is missing: {first}\n",
    )
    assert run("keys", "generate").status == 0
    assert run(*options) == Done(
        3,
        "",
        "verifier: error: applications.json: no such file or directory\n"
        "verifier: hint: correct the path, or create what is missing: "
        "verifier applications add my-application --file applications.json\n",
    )


@pytest.mark.parametrize("folder", ["public", "private"])
def test_serve_names_the_key_directory_where_a_folder_in_it_was_given(run, folder):
    assert run("keys", "generate").status == 0
    assert run("serve", "--issuer", ISSUER, "--applications", "applications.json", "--keys", f"keys/{folder}") == Done(
        3,
        "",
        f"verifier: error: keys/{folder}/public and applications.json: no such file or directory\n"
        f"verifier: hint: name the folder that holds {folder}/: keys\n",
    )


def test_serve_with_settings_keeps_the_hint_of_a_wrong_one(run):
    assert run("serve", "--port", 8123).err == (
        "verifier: error: VERIFIER_ISSUER is not set (expected the iss of your tokens)\n"
        "verifier: hint: use what the game backend writes as iss, for instance https://game.example\n"
    )


def test_an_option_of_serve_wins_over_its_variable(run, monkeypatch, environment):
    monkeypatch.setattr("verifier.server.run.serve", lambda settings: print(settings.port, settings.leeway_s))
    for name, value in (environment | {"VERIFIER_PORT": "1", "VERIFIER_LEEWAY": "2"}).items():
        monkeypatch.setenv(name, value)
    assert run("serve", "--port", 8123) == Done(0, "8123 2\n")


@pytest.mark.parametrize("command", ["serve", "healthcheck --port 1", "explain --help"])
def test_a_command_that_does_not_sign_loads_nothing_that_signs(command):
    code = (
        f"import sys; sys.argv = {['verifier', *command.split()]}\n"
        "from verifier.cli import main\n"
        "try: main.main()\n"
        "except SystemExit: print([m for m in sys.modules if m.startswith('verifier.signing')])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], stderr=subprocess.DEVNULL, text=True)
    assert output.splitlines()[-1] == "[]"


def test_a_file_that_cannot_be_opened_is_3(run, keys, monkeypatch):
    monkeypatch.setenv("VERIFIER_SECRET_KEY", "secret")
    signing = ("--keys", keys, "--issuer", ISSUER, "--application-id", APPLICATION_ID)
    url = f"http://127.0.0.1:{free_port()}/profile"
    done = run("check", url, *signing, "--only", "profile-full", "--junit", "missing/report.xml")
    assert done.status == 3
    assert done.err == "verifier: error: could not open file 'missing/report.xml': No such file or directory\n"


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a\nb"), "a\\nb: No such file or directory"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8"),
    ],
)
def test_an_error_of_the_system_is_3_and_one_line(run, monkeypatch, exception, text):
    def fail(*_, **__):
        raise exception

    monkeypatch.setattr("verifier.cli.keys.begin", fail)
    assert run("keys", "rotate") == Done(3, "", f"verifier: error: {text}\n")


def test_a_module_of_the_extra_that_is_missing_is_named(run, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("keys", "report", "--html", "report.html", "--keys", keys) == Done(
        3,
        "",
        "verifier: error: this command needs the module jinja2, which is not installed\n"
        f"verifier: hint: {sys.executable} -m pip install 'escs-verifier[server]'\n",
    )


def test_any_other_module_that_is_missing_is_a_bug(monkeypatch):
    monkeypatch.delitem(sys.modules, "verifier.cli.keys", raising=False)
    monkeypatch.setitem(sys.modules, "verifier.signing.private_key", None)
    monkeypatch.setattr(sys, "argv", ["verifier", "keys", "list"])
    with pytest.raises(ModuleNotFoundError, match=r"verifier\.signing\.private_key"):
        main()
