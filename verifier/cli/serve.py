"""`verifier serve`: run the endpoint."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from verifier.cli.options import Number
from verifier.cli.output import next_step
from verifier.cli.program import command
from verifier.errors import ConfigError
from verifier.server.settings import Option, Settings


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every setting but the secret, which other users could read in the list of processes."""
    for option in reversed(list(Settings.options())):
        described = option.description
        if not described.in_process_list:
            continue
        default = described.unset or option.default
        note = f"env: {option.variable}" + (f"; default: {default}" if default else "")
        function = click.option(
            f"--{option.word.replace('_', '-')}", type=_click_type(option), help=f"{described.help} [{note}]"
        )(function)
    return function


def _click_type(option: Option) -> click.ParamType[Any]:
    described = option.description
    if described.choices:
        return click.Choice(described.choices, case_sensitive=False)
    if option.type is int:
        return Number(described.low, described.high)
    return click.Path(path_type=Path) if option.type is Path else click.STRING


@click.command()
@settings_options
def serve(**options: Any) -> None:
    """Run the endpoint until SIGTERM or Ctrl-C.

    Settings come from the environment (VERIFIER_*); an option here wins over its variable.
    """
    for name, value in options.items():
        if value is not None:
            os.environ[f"VERIFIER_{name.upper()}"] = str(value)  # where worker processes find it
    first_time = not any(name.startswith("VERIFIER_") for name in os.environ)
    try:
        settings = Settings.from_environment(os.environ)
    except ConfigError as exc:
        steps = _first_steps(Path("keys"), Path("applications.json"))
        if not (first_time and steps):
            raise
        start = command("serve", "--issuer", "https://game.example", "--applications", "applications.json")
        raise ConfigError(str(exc), hint=" && ".join([*steps, start])) from exc
    _require_files(settings)
    from verifier.server import run

    next_step(f"test it from another terminal ({command('check', '--help')}); Ctrl-C stops it")
    run.serve(settings)


def _first_steps(keys: Path, applications: Path | None) -> list[str]:
    """Return the commands that create the files that do not exist."""
    steps = []
    if not os.path.lexists(keys / "public"):
        steps.append(command("keys", "generate", "--keys", keys))
    if applications and not os.path.lexists(applications):
        steps.append(command("applications", "add", "my-application", "--file", applications))
    return steps


def _require_files(settings: Settings) -> None:
    steps = _first_steps(settings.keys, settings.applications)
    if steps:
        missing = [path for path in (settings.keys / "public", settings.applications) if path and not path.exists()]
        text = f"{' and '.join(map(str, missing))}: no such file or directory"
        raise ConfigError(text, hint=f"correct the path, or create what is missing: {' && '.join(steps)}")
