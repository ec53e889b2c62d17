"""`verifier serve`: run the endpoint."""

import os
from pathlib import Path
from typing import Any

import click

from verifier.cli.options import Command, setting_option
from verifier.cli.output import next_step
from verifier.cli.program import command
from verifier.errors import ConfigError
from verifier.server.settings import Settings
from verifier.storage.key_directory import KeyDirectory


def settings_options(function: Command) -> Command:
    """Add an option for every setting but the secret, which other users could read in the list of processes."""
    for setting in reversed([each for each in Settings.options() if each.in_process_list]):
        default = setting.unset or setting.default
        note = f"env: {setting.variable}" + (f"; default: {default}" if default else "")
        text = f"{setting.help} [{note}]"
        function = setting_option(setting.word, envvar=None, default=None, help=text)(function)
    return function


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
        missing = _missing(Path("keys"), Path("applications.json"))
        if not (first_time and missing):
            raise
        start = command("serve", "--issuer", "https://game.example", "--applications", "applications.json")
        raise ConfigError(str(exc), hint=" && ".join([*missing.values(), start])) from exc
    if missing := _missing(settings.keys, settings.applications):
        text = f"{' and '.join(map(str, missing))}: no such file or directory"
        keys = KeyDirectory(settings.keys / "public")
        create = f"correct the path, or create what is missing: {' && '.join(missing.values())}"
        raise ConfigError(text, hint=keys.missing_hint if keys.is_nested else create)
    from verifier.server import run

    next_step(f"test it from another terminal ({command('check', '--help', elsewhere=True)}); Ctrl-C stops it")
    run.serve(settings)


def _missing(keys: Path, applications: Path | None) -> dict[Path, str]:
    """Return the files that do not exist, each with the command that creates it."""
    commands = {keys / "public": command("keys", "generate", "--keys", keys)}
    if applications:
        commands[applications] = command("applications", "add", "my-application", "--file", applications)
    return {path: text for path, text in commands.items() if not os.path.lexists(path)}
