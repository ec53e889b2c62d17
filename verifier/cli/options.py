"""Options that several commands share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from verifier.core import times
from verifier.core.durations import CRYPTOPERIOD_S
from verifier.core.encoding import describe_flaw
from verifier.server.settings import Settings
from verifier.server.variables import SERVICE_LINK

Command = Callable[..., Any]


class Number(click.IntRange):
    """A whole number, with limits."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail as a usage error."""
        if isinstance(value, str) and SERVICE_LINK.match(value):
            self.fail(
                f"{value!r} is the address of a Kubernetes Service, not a number; set enableServiceLinks: false in the "
                "pod, or give the Service another name",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `1h` or `90d`, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds; fail as a usage error."""
        try:
            return times.seconds(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Name(click.ParamType[str]):
    """An issuer or application id, without characters that make it look like another one."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; fail as a usage error."""
        if flaw := describe_flaw(value):
            self.fail(f"it {flaw}; write the value without", param, ctx)
        return str(value)


def key_directory_option(help: str) -> Callable[[Command], Command]:  # noqa: A002 - click's own word
    """Add `--keys`, the key directory, for a command with a use of its own for it."""
    return click.option(
        "--keys",
        type=click.Path(path_type=Path),
        envvar="VERIFIER_KEYS",
        default="keys",
        show_default=True,
        show_envvar=True,
        help=help,
    )


keys_option = key_directory_option("Folder that holds public/ and, where tokens are signed, private/.")


def token_options(function: Command) -> Command:
    """Add the options for the issuer and the application of a token."""
    for option in (
        click.option(
            "--issuer",
            type=Name(),
            envvar="VERIFIER_ISSUER",
            required=True,
            show_envvar=True,
            help="iss of the token.",
        ),
        click.option(
            "--application-id",
            type=Name(),
            envvar="VERIFIER_APPLICATION_ID",
            required=True,
            show_envvar=True,
            help="aud of the token: the applicationId of the escs dashboard.",
        ),
    ):
        function = option(function)
    return keys_option(function)


def setting_option(word: str) -> Callable[[Command], Command]:
    """Add an option for a setting of the server that a command needs to know."""
    setting = next(option for option in Settings.options() if option.word == word)
    return click.option(
        f"--{word.replace('_', '-')}",
        type=Number(setting.description.low, setting.description.high),
        envvar=setting.variable,
        default=setting.default,
        show_default=True,
        show_envvar=True,
        help=setting.description.help,
    )


max_lifetime_option = setting_option("max_lifetime")
leeway_option = setting_option("leeway")


def window_options(function: Command) -> Command:
    """Add the two durations that decide how long a token may arrive."""
    return max_lifetime_option(leeway_option(function))


def cryptoperiod_option(function: Command) -> Command:
    """`--cryptoperiod`, for the commands that show when a key must be rotated."""
    return click.option(
        "--cryptoperiod",
        type=Duration(),
        default=times.duration(CRYPTOPERIOD_S),
        show_default=True,
        help="How long a key may sign.",
    )(function)


def json_option(function: Command) -> Command:
    """Add `--json`, for every command that prints a table."""
    return click.option("--json", "as_json", is_flag=True, help="Output JSON.")(function)


def file_option(function: Command) -> Command:
    """Add `--file`, for every command about applications."""
    return click.option(
        "--file",
        "path",
        type=click.Path(path_type=Path),
        envvar="VERIFIER_APPLICATIONS",
        default="applications.json",
        show_default=True,
        show_envvar=True,
        help="File with the applications and the digests of their secrets.",
    )(function)


def print_json(document: Any) -> None:
    """Print the output of `--json`."""
    click.echo(json.dumps(document, indent=2))
