"""The help of every command: examples that work, complete summaries, standard terms; usage errors; completion."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.conftest import Done
from verifier.cli.help import EXAMPLES
from verifier.cli.main import cli


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(cli))
GROUPS = [path for path, command in COMMANDS.items() if isinstance(command, click.Group)]
# The last table of the terms: words that a reader would have to learn.
HOME_MADE = (
    r"\b(mint\w*|half|halves|stranger\w*|nobody|whoever|mend\w*|at work|to no end|hands? in|handed out"
    r"|ask(s|ed)? once|ask nothing|makes of|end in|hears?|told|somebody|learns? of)\b"
)


def parse(words: list[str]) -> str:
    """Parse a command line as click does, without running it; return the path of the command."""
    command, context, path = cli, cli.make_context("verifier", [], resilient_parsing=True), []
    while isinstance(command, click.Group):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
        context = click.Context(command, parent=context, info_name=path[-1])
    with context:  # closes files
        command.parse_args(context, words)
    return " ".join(path)


def test_every_command_has_examples_and_every_example_a_command():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_in_the_help_parse(run, tmp_path, path):
    for name in ("secret", "token", "public.pem", "jwks.json"):
        (tmp_path / name).touch()
    text = run(*path.split(), "--help").out
    first = " ".join(["verifier", *path.split(), *EXAMPLES[path][0].split("\n")[:1]]).strip()
    assert f"\n  Examples:\n    {first}\n" in text
    shown = text.partition("\n  Examples:\n")[2].replace("\\\n", " ")
    examples = [shlex.split(re.split(r" [<>] ", line)[0]) for line in shown.splitlines()]
    assert {words[0] for words in examples} == {"verifier"}
    for words in examples:
        parsed = parse(words[1:])
        assert parsed.startswith(path)
        assert parsed == path or path in GROUPS


@pytest.mark.parametrize("path", GROUPS)
def test_no_summary_is_truncated(run, path):
    help_text = run(*path.split(), "--help").out
    assert "..." not in help_text.partition("\nCommands:\n")[2]


@pytest.mark.parametrize("path", COMMANDS)
def test_help_uses_standard_terms_and_describes_every_option(run, path):
    assert re.findall(HOME_MADE, run(*path.split(), "--help").out, re.IGNORECASE) == []
    assert [p.name for p in COMMANDS[path].params if isinstance(p, click.Option) and not p.help] == []


@pytest.mark.parametrize(
    ("arguments", "error", "command"),
    [
        ("nonsense", "no such command 'nonsense'", "verifier"),
        ("keys nonsense", "no such command 'nonsense'", "verifier keys"),
        ("dev --prot 1", "no such option '--prot'. Did you mean '--port'?", "verifier dev"),
        ("dev --port abc", "invalid value for '--port' ", "verifier dev"),
        ("keys rotate --lead x", "invalid value for '--lead': ", "verifier keys rotate"),
        ("token", "missing argument 'PLAYER_ID'", "verifier token"),
        ("keys list more", "got unexpected extra argument (more)", "verifier keys list"),
        ("check https://a.example/ --token -", "--application-id is missing", "verifier check"),
    ],
)
def test_a_usage_error_has_the_form_of_the_others(run, arguments, error, command):
    done = run(*arguments.split())
    assert (done.status, done.out) == (2, "")
    first, hint = done.err.splitlines()
    assert first.startswith(f"verifier: error: {error}")
    assert hint == f"verifier: hint: {command} --help shows the usage and examples"


def test_a_usage_error_escapes_what_was_typed(run):
    assert run("a\x1b[31m").err.startswith(r"verifier: error: no such command 'a\x1b[31m'")


@pytest.mark.parametrize("path", GROUPS)
def test_a_group_without_a_command_shows_its_help_and_exits_with_2(run, path):
    assert run(*path.split()) == Done(2, "", run(*path.split(), "--help").out)


def test_a_file_that_cannot_be_written_has_the_form_of_the_others(run):
    done = run("check", "http://127.0.0.1:1/", "--token", "-", "--application-id", "a", "--junit", "no/file", stdin="t")
    assert done.status in (2, 3)
    assert done.err.startswith("verifier: error: ")


def test_an_aborted_prompt_has_the_form_of_the_others(run, monkeypatch):
    monkeypatch.setattr("verifier.cli.applications._read_secret", lambda: click.prompt("Secret key"))
    assert run("applications", "add", "a").err.endswith("verifier: error: aborted\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_the_shell(run, shell):
    done = run("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"_VERIFIER_COMPLETE={shell}_complete" in done.out


def test_bash_completes_commands_and_options(tmp_path):
    script = """
eval "$("$0" completion bash)"
for line in "verifier keys ro" "verifier serve --metrics"; do
  COMP_WORDS=($line) COMP_CWORD=2 COMPREPLY=()
  _verifier_completion "$0"
  echo "${COMPREPLY[@]}"
done
"""
    command = ["bash", "-c", script, Path(sys.executable).with_name("verifier")]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == ("rotate\n--metrics-port\n", "")


@pytest.mark.parametrize(
    ("option", "note"),
    [
        ("--port", "[env: VERIFIER_PORT; default: 8000]"),
        ("--issuer", "[env: VERIFIER_ISSUER]"),
        ("--metrics-port", "[env: VERIFIER_METRICS_PORT; default: no metrics]"),
    ],
)
def test_an_option_of_serve_names_its_variable_and_its_default(option, note):
    [found] = [parameter for parameter in cli.commands["serve"].params if option in parameter.opts]
    assert found.help.endswith(note)
