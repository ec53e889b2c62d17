"""The commands that show the state of the keys to a reviewer: confirm, audit and report."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import Command, Duration, json_option, keys_option, print_json, window_options
from verifier.core.times import duration
from verifier.rotation.plan import CRYPTOPERIOD_S

if TYPE_CHECKING:
    from verifier.rotation.audit import Inventory


@click.command("confirm")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@json_option
@keys_option
def confirm(urls: tuple[str, ...], as_json: bool, keys: Path) -> None:
    """Ask each replica (http://host:port) whether it has exactly the keys that are here."""
    from verifier.rotation import replicas
    from verifier.storage.key_directory import KeyDirectory

    keyring = KeyDirectory(keys / "public").load()
    found = [replicas.ask(url) for url in urls]
    same = [replica.digest == keyring.digest and replica.ready for replica in found]
    if as_json:
        rows = [asdict(replica) | {"same": good} for replica, good in zip(found, same, strict=True)]
        print_json({"key_set_digest": keyring.digest, "replicas": rows})
    else:
        now = int(time.time())
        lacking = {key.kid: keyring.state(key, now) for key in keyring.keys.values() if not key.has_ended(now)}
        for replica, good in zip(found, same, strict=True):
            lacks = [f"{state} {kid}" for kid, state in lacking.items() if kid not in replica.kids]
            state = "the same keys" if good else f"lacks {', '.join(lacks)}" if lacks else "other dates, or not ready"
            click.echo(f"{'pass' if good else 'FAIL'}  {replica.url}  {replica.problem or state}")
    if not all(same):
        sys.exit(EXIT_REFUSED)


def state_options(function: Command) -> Command:
    """What the audit and the report look at."""
    for option in (
        click.option(
            "--applications", type=click.Path(path_type=Path), envvar="VERIFIER_APPLICATIONS", show_envvar=True
        ),
        click.option("--cryptoperiod", type=Duration(), default=duration(CRYPTOPERIOD_S), show_default=True),
    ):
        function = option(function)
    return keys_option(window_options(function))


@click.command("audit")
@state_options
@json_option
def audit(as_json: bool, **options: Any) -> None:
    """Look for what could refuse a player or let a wrong token in; exit 1 on findings."""
    from verifier.rotation.audit import findings

    found = findings(_read_inventory(**options))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            click.echo(f"{finding.severity:<8}  {finding.rule}: {finding.found}")
            click.echo(f"          {finding.remediation} ({finding.source})")
        click.echo(f"{len(found)} finding(s)")
    if found:
        sys.exit(EXIT_REFUSED)


@click.command("report")
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page to this file.")
@click.option(
    "--replica", "urls", multiple=True, metavar="URL", help="Ask this replica what it has loaded; repeatable."
)
@json_option
@state_options
def report(html: Path | None, urls: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Everything a reviewer of the keys wants to see, on one page."""
    from verifier.rotation import replicas
    from verifier.rotation.report import build_report, render_html
    from verifier.storage.atomic import write_atomic

    if (html is None) == (not as_json):
        raise click.UsageError("one of --html FILE and --json is needed")
    document = build_report(_read_inventory(**options), [replicas.ask(url) for url in urls])
    if html is None:
        print_json(document)
    else:
        write_atomic(html, render_html(document).encode())
        click.echo(f"{html}: {len(document['keys'])} key(s), {len(document['findings'])} finding(s)")


def _read_inventory(**options: Any) -> "Inventory":
    from verifier.rotation.audit import Inventory
    from verifier.rotation.plan import OverlapPolicy

    window = OverlapPolicy(options["max_lifetime"], options["leeway"])
    return Inventory.read(
        options["keys"],
        now=int(time.time()),
        window=window,
        applications=options["applications"],
        cryptoperiod_s=options["cryptoperiod"],
    )
