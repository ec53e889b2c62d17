"""Options that several commands share."""

import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from verifier.cli.output import write
from verifier.cli.program import FILES
from verifier.core import times
from verifier.core.encoding import describe_flaw
from verifier.server.settings import Settings
from verifier.server.variables import refuse_service_link

Command = Callable[..., Any]


class Option(click.Option):
    """An option whose default and variable are in the help, and whose value is not empty."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, show_default=True, show_envvar="envvar" in attributes, **attributes)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert the value; fail as a usage error if it is empty, as a variable is that a script did not set."""
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and not text.strip():
                raise click.BadParameter(f"it is empty; expected {self.make_metavar(ctx)}: {self.help}", ctx, self)
        return super().type_cast_value(ctx, value)

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:
        """Parse the option; keep for `with_files` which files the command line names."""
        parsed = super().handle_parse_result(ctx, opts, args)
        word = "--file" if self.opts[0] == "--applications" else self.opts[0]
        given = ctx.get_parameter_source(str(self.name)) is ParameterSource.COMMANDLINE
        if given and ctx.obj is not None and word in FILES.values():
            ctx.obj[word] = str(parsed[0])
        return parsed


option = functools.partial(click.option, cls=Option)


class Number(click.IntRange):
    """A whole number, with limits."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail as a usage error.

        Raises:
            ConfigError: it is the address of a Kubernetes Service, as in a variable that Kubernetes sets.
        """
        if isinstance(value, str) and param is not None:
            variables = [param.envvar] if isinstance(param.envvar, str) else param.envvar or []
            source = next((name for name in variables if os.environ.get(name) == value), param.opts[0])
            refuse_service_link(value, source)
        return super().convert(value, param, ctx)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text that a function parses; its ValueError is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the function returns."""
        try:
            return self.parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def _parse_name(text: str) -> str:
    if flaw := describe_flaw(text):
        raise ValueError(f"it {flaw}; write the value without")
    return text


def _parse_duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise ValueError("expected a whole number and a unit: 90s, 30m, 1h, 90d")
    return int(match[1]) * times.UNITS_S[match[2]]


DURATION = Parsed("duration", _parse_duration)
PATH = click.Path(path_type=Path, readable=False)  # what reads the file says why it cannot


def setting_option(word: str, **attributes: Any) -> Callable[[Command], Command]:
    """Add an option for a setting of the server; `attributes` take the place of what it says, and None removes it."""
    setting = next(each for each in Settings.options() if each.word == word)
    if setting.kind is int:
        kind: click.ParamType[Any] = Number(setting.low, setting.high)
    elif setting.choices:
        kind = click.Choice(setting.choices, case_sensitive=False)
    else:
        kind = PATH if setting.kind is Path else click.STRING
    known = {"type": kind, "envvar": setting.variable, "default": setting.default, "help": setting.help}
    attributes = {name: value for name, value in (known | attributes).items() if value is not None}
    return option(f"--{word.replace('_', '-')}", **attributes)


keys_option = setting_option("keys", help="Folder that holds public/ and, where tokens are signed, private/.")
max_lifetime_option = setting_option("max_lifetime")
leeway_option = setting_option("leeway")


def name_option(word: str, help: str, *, required: bool = False) -> Callable[[Command], Command]:  # noqa: A002
    """Add an option for an issuer or application id, without characters that make it look like another one."""
    return setting_option(word, type=Parsed("text", _parse_name), default=None, required=required, help=help)


def token_options(function: Command) -> Command:
    """Add the options for the issuer and the application of a token, and for the keys."""
    issuer = name_option("issuer", "iss of the token.", required=True)
    text = "aud of the token: the applicationId of the escs dashboard."
    return keys_option(name_option("application_id", text, required=True)(issuer(function)))


def window_options(function: Command) -> Command:
    """Add the two durations that decide how long a token may arrive; the command gets them as one `OverlapPolicy`."""

    @max_lifetime_option
    @leeway_option
    @functools.wraps(function)
    def command(max_lifetime: int, leeway: int, **options: Any) -> Any:
        from verifier.rotation.plan import OverlapPolicy

        return function(window=OverlapPolicy(max_lifetime, leeway), **options)

    return command


def change_options(function: Command) -> Command:
    """Add the options of the commands about the keys that depend on the settings of the servers."""
    return window_options(json_option(keys_option(function)))


cryptoperiod_option = option(
    "--cryptoperiod",
    "cryptoperiod_s",
    type=DURATION,
    default=times.duration(times.CRYPTOPERIOD_S),
    help="How long a key may sign.",
)
json_option = option("--json", "as_json", is_flag=True, help="Output JSON.")
file_option = option(
    "--file",
    "path",
    type=PATH,
    envvar="VERIFIER_APPLICATIONS",
    default="applications.json",
    help="File with the applications and the digests of their secrets.",
)


def force_option(text: str) -> Callable[[Command], Command]:
    """Return `--force`, with its consequence."""
    return option("--force", is_flag=True, help=text)


def print_json(document: Any) -> None:
    """Print the output of `--json`."""
    write(json.dumps(document, indent=2))
