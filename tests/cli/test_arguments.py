"""What commands are given: empty values, names that look like others, files that are not what they should be."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli import test_help
from tests.conftest import APPLICATION_ID, ISSUER, SECRET, Done
from verifier.cli import dev
from verifier.errors import ConfigError

FLAWS = {
    "carriage-return": ("x\r", "contains an unprintable character (U+000D at position 2)"),
    "space": (" x", "begins or ends with a space"),
    "byte-order-mark": ("\ufeffx", "contains an unprintable character (U+FEFF at position 1)"),
    "zero-width": ("x\u200b", "contains an unprintable character (U+200B at position 2)"),
    "quotes": ("'x'", "is in quotes"),
    "not-utf-8": (os.fsdecode(b"x\xff"), "contains an unprintable character (U+DCFF at position 2)"),
}
COMMANDS = {
    "token": ("token", "42"),
    "explain": ("explain",),
    "check": ("check", "http://127.0.0.1:1/", "--token", "-"),
}


@pytest.mark.parametrize("source", ["option", "variable"])
@pytest.mark.parametrize("option", ["--issuer", "--application-id"])
@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_looks_like_another_is_refused_by_every_command(run, monkeypatch, command, flaw, option, source):
    value, says = FLAWS[flaw]
    names = {"--issuer": ISSUER, "--application-id": APPLICATION_ID} | {option: value}
    arguments = []
    for name, text in names.items():
        if source == "variable":
            monkeypatch.setenv(f"VERIFIER_{name[2:].replace('-', '_').upper()}", text)
        else:
            arguments += [name, text]
    done = run(*COMMANDS[command], *arguments, stdin="token")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"verifier: error: invalid value for '{option}'")
    assert f": it {says}; write the value without" in done.err


OPTIONS = {
    f"{path} {option.opts[0]}": option
    for path, command in test_help.COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
}


@pytest.mark.parametrize("value", ["", " "], ids=["empty", "blank"])
@pytest.mark.parametrize("place", OPTIONS)
def test_an_empty_value_is_a_usage_error_that_says_what_is_expected(run, tmp_path, place, value):
    *path, name = place.split()
    expected = f"{OPTIONS[place].make_metavar(click.Context(click.Command('')))}: {OPTIONS[place].help}"
    done = run(*path, name, value)
    error, hint = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert error.startswith(f"verifier: error: invalid value for '{name}'")
    assert error.endswith(f": it is empty; expected {' '.join(expected.split()).removesuffix('.')}")
    assert hint == f"verifier: hint: verifier {' '.join(path)} --help shows the usage and examples"
    assert list(tmp_path.iterdir()) == []


def make(kind: str, path: Path) -> str:
    """Put something in the place of a file; return how it is named."""
    if kind == "pipe":
        os.mkfifo(path)
        return "is a pipe, not a regular file"
    if kind == "device":
        path.symlink_to("/dev/zero")
        return "is a device, not a regular file"
    if kind == "folder":
        path.mkdir()
        return "Is a directory"
    if kind == "large":
        with path.open("wb") as file:
            file.truncate(1_048_577)
        return "is larger than 1048576 bytes"
    return "No such file or directory"


KINDS = ["pipe", "device", "folder", "large", "missing"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["--secret-file", "--token", "--private-key"])
def test_check_reads_only_regular_files_of_bounded_size(run, monkeypatch, option, kind):
    says = make(kind, Path("input"))
    monkeypatch.setenv("VERIFIER_SECRET_KEY", SECRET)
    other = ("--token", "-") if option == "--secret-file" else ()
    done = run("check", "http://127.0.0.1:1/", "--application-id", "a", option, "input", *other, stdin="t")
    assert (done.status, done.out, done.err) == (3, "", f"verifier: error: input: cannot be read ({says})\n")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_dev_reads_its_secret_only_from_a_regular_file_of_bounded_size(tmp_path, kind):
    says = make(kind, tmp_path / "secret")
    with pytest.raises(ConfigError, match=f"(?m)^{tmp_path}/secret: cannot be read \\({says}\\)$"):
        dev._prepare(tmp_path)


@pytest.mark.parametrize("option", ["--secret-file", "--token"])
def test_check_names_a_file_that_is_not_utf8(run, monkeypatch, option):
    Path("input").write_bytes(b"\xff\xfea\0")
    monkeypatch.setenv("VERIFIER_SECRET_KEY", SECRET)
    other = ("--token", "-") if option == "--secret-file" else ()
    done = run("check", "http://127.0.0.1:1/", "--application-id", "a", option, "input", *other, stdin="t")
    says = {"--secret-file": (3, "input: is UTF-16, not UTF-8"), "--token": (2, "input: the token is not UTF-8")}
    assert (done.status, done.err.splitlines()[0]) == (says[option][0], f"verifier: error: {says[option][1]}")


CHECK = "check http://127.0.0.1:1/ --application-id a"


@pytest.mark.parametrize("content", ["", "\r\n", "\ufeff\r\n"], ids=["empty", "newline", "byte-order-mark"])
@pytest.mark.parametrize("name", ["input", "-"])
@pytest.mark.parametrize(
    "command",
    [f"{CHECK} --token token --secret-file", f"{CHECK} --token", f"{CHECK} --private-key", "keys import"],
)
def test_an_empty_input_is_named(run, command, name, content):
    Path("token").write_text("t")
    Path("input").write_text(content, "utf-8", newline="")
    done = run(*command.split(), name, stdin=content)
    shown = {"-": "standard input"}.get(name, name)
    assert done == Done(3, "", f"verifier: error: {shown} is empty\n")


def test_check_with_a_pipe_that_no_one_writes_to_ends_at_once(tmp_path):
    os.mkfifo(tmp_path / "secret")
    done = subprocess.run(
        [sys.executable, "-m", "verifier", "check", "http://127.0.0.1:1/", "--application-id", "a",
         "--secret-file", "secret", "--token", "-"],
        cwd=tmp_path, input="t", text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        3,
        "verifier: error: secret: cannot be read (is a pipe, not a regular file)\n",
    )
