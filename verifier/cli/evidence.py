"""The commands that show the state of the keys to a reviewer: confirm, audit and report."""

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from verifier._version import __version__
from verifier.cli.changes import begin
from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import (
    PATH,
    Command,
    Parsed,
    change_options,
    cryptoperiod_option,
    json_option,
    keys_option,
    option,
    print_json,
    setting_option,
    window_options,
)
from verifier.cli.output import echo, next_step, show_progress
from verifier.rotation import history, replica_checks, replicas
from verifier.rotation.audit import REPLICA_RULES, findings, replica_findings
from verifier.rotation.events import user_name
from verifier.rotation.history import Anchor
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.replicas import Replica
from verifier.rotation.report import build_report, evidence, render_html
from verifier.storage import atomic


@click.command("confirm")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@option("--record", is_flag=True, help="Append the result for each replica to the history.")
@change_options
def confirm(urls: tuple[str, ...], record: bool, window: OverlapPolicy, as_json: bool, keys: Path) -> None:
    """Check that each replica (http://host:port) has exactly these keys, and the time and settings of this command."""
    state = replace(_read_inventory(keys, window), replicas=_query(urls))
    found = findings(state, REPLICA_RULES)
    same = [replica_checks.same(state, replica) for replica in state.replicas]
    if record:
        _record(keys, state)
    if as_json:
        rows = [asdict(replica) | {"same": good} for replica, good in zip(state.replicas, same, strict=True)]
        rules = [asdict(finding) for finding in found]
        print_json({"key_set_digest": state.keyring.digest, "replicas": rows, "findings": rules})
    else:
        _print_confirmation(state, same)
        if found:
            next_step("deploy keys/public to the replicas that differ, correct what else is named, and run this again")
        elif record:
            next_step(f"commit {keys / 'history.jsonl'}, which now has the result")
        else:
            next_step("run this with --record to keep the result in the history")
    if found:
        sys.exit(EXIT_REFUSED)


def _print_confirmation(state: Inventory, same: list[bool]) -> None:
    for replica, good in zip(state.replicas, same, strict=True):
        own = replica_findings(state, replica)
        if not own:
            echo(f"pass  {replica.url}  the same keys")
        for number, finding in enumerate(own):
            prefix = f"FAIL  {replica.url}" if not number else " " * (6 + len(replica.url))
            echo(f"{prefix}  {finding.found}{', with the same keys' if good and not number else ''}")


def _record(folder: Path, state: Inventory) -> None:
    """Append what each replica reported, and whether it passed, to the history."""
    with begin(folder) as (store, _, now):
        lines = []
        for replica in state.replicas:
            found = [finding.found for finding in replica_findings(state, replica)]
            line = history.Confirmation(
                at=now,
                by=user_name(),
                command="confirm",
                replica=replica.url,
                key_set_digest=replica.digest,
                confirmed=not found,
                clock_offset_s=replica.clock_offset_s,
                max_lifetime_s=replica.max_lifetime_s,
                leeway_s=replica.leeway_s,
                replica_version=replica.version,
                problem="; ".join(found),
                version=__version__,
            )
            lines.append(line)
        store.confirm(lines)


def state_options(function: Command) -> Command:
    """Add the options that say what is audited, and by which rules."""
    for add in (
        setting_option("applications", help="File with the applications, to audit their secrets."),
        cryptoperiod_option,
        option(
            "--since",
            type=Parsed("anchor", Anchor.parse),
            metavar="N:DIGEST",
            help="Require that the history continues from this anchor, which an earlier audit or report printed.",
        ),
        option(
            "--deployed",
            type=PATH,
            metavar="FOLDER",
            help="Key directory that is deployed, for example of the main branch: what differs must not come too late.",
        ),
        option("--require-signed", is_flag=True, help="Require a valid signature of the commit that added each line."),
        option(
            "--allow-uncommitted",
            is_flag=True,
            help="Accept changes that are not committed: for hooks before a commit.",
        ),
        option(
            "--replica",
            "urls",
            multiple=True,
            metavar="URL",
            help="Check this replica (http://host:port, and the prefix if it is mounted); repeatable.",
        ),
    ):
        function = add(function)
    return keys_option(window_options(function))


@click.command("audit")
@state_options
@json_option
def audit(as_json: bool, **options: Any) -> None:
    """Check the key set, its history and the replicas for misconfigurations and changes.

    Exit 1 on findings; those of severity low are reminders and leave it at 0.
    """
    state = _read_inventory(**options)
    found = findings(state)
    proof = evidence(state)
    if as_json:
        print_json(proof | {"findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            echo(f"{finding.severity:<8}  {finding.rule}: {finding.found}")
            echo(f"          {finding.remediation} ({finding.clause})")
        for line in _describe(proof):
            echo(line)
        echo(f"{len(found)} finding(s)")
        if found:
            next_step("apply the remediation below each finding, and run this again")
        else:
            next_step(f"keep the anchor for the next audit: --since {proof['anchor']['text']}")
    if any(finding.fails for finding in found):
        sys.exit(EXIT_REFUSED)


def _describe(proof: dict[str, Any]) -> Iterable[str]:
    yield f"anchor  {proof['anchor']['text']}"
    if proof["since"]:
        yield f"since   {proof['since']['text']}: {proof['since']['added']} line(s) added"
    state = {True: "clean", False: "uncommitted changes", None: "could not be queried"}[proof["git"]["clean"]]
    if not proof["git"]["present"]:
        state = "not a git checkout; nothing but the anchor proves the end of the history"
    yield f"commit  {' '.join(filter(None, (proof['git']['commit'], state)))}"
    if proof["git"]["unsearched"]:
        yield f"        not searched for private keys outside of the key directory: {proof['git']['unsearched']}"


@click.command("report")
@option("--html", type=PATH, help="Write one self-contained page to this file.")
@option(
    "--metrics",
    multiple=True,
    metavar="URL",
    help="Metrics page (http://host:port/metrics) for the last use of keys and secrets; repeatable.",
)
@json_option
@state_options
def report(html: Path | None, metrics: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Everything a reviewer of the keys has to see, on one page.

    Exit 1 on findings; those of severity low are reminders and leave it at 0.
    """
    if html is not None and as_json:
        raise click.UsageError("--html FILE and --json cannot be combined")
    if html is None and not as_json:
        raise click.UsageError("one of --html FILE and --json is needed")
    document = build_report(_read_inventory(metrics=metrics, **options))
    if html is None:
        print_json(document)
    else:
        atomic.write_atomic(html, render_html(document).encode())
        echo(f"{html}: {len(document['keys'])} key(s), {len(document['findings'])} finding(s)")
        next_step(f"open {html} in a browser" + ("; its findings are at the top" if document["findings"] else ""))
    if document["failed"]:
        sys.exit(EXIT_REFUSED)


def _query(urls: tuple[str, ...]) -> tuple[Replica, ...]:
    """Query each replica, one after the other."""
    return tuple(replicas.query(url) for url in show_progress(urls, len(urls)))


def _read_inventory(
    keys: Path, window: OverlapPolicy, urls: tuple[str, ...] = (), metrics: tuple[str, ...] = (), **options: Any
) -> Inventory:
    last_use, problems = replicas.last_uses(metrics)
    return Inventory.read(
        keys,
        now=int(time.time()),
        window=window,
        replicas=_query(urls),
        metrics=bool(metrics),
        metrics_problems=problems,
        last_use=last_use,
        **options,
    )
