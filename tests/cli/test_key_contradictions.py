"""Files, histories and private keys that contradict each other: commands stop, and the remediation is right."""

import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.test_key_safety import (
    DAY,
    HISTORY,
    PRIVATE,
    PUBLIC,
    SWITCH,
    branch,
    first,
    merge_tree,
    pending,
    states,
)
from tests.conftest import NOW, Done
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory

__all__ = ["first", "pending"]  # fixtures


def edit(kid: str, **changes: object) -> None:
    path = PUBLIC / f"{kid}.json"
    members = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in members.items() if value is not None}))


def audit(run, now: int = NOW) -> dict[str, tuple[str, str]]:
    """What the audit finds, and its remediation, by rule."""
    document = json.loads(run("keys", "audit", "--json", now=now).out)
    return {finding["rule"]: (finding["found"], finding["remediation"]) for finding in document["findings"]}


CONTRADICTIONS = {
    "end-removed": (lambda first, pending: edit(first, exp=None), "exp is absent, but the history records 2027-01-15"),
    "end-later": (lambda first, pending: edit(first, exp=NOW + DAY), "exp is 2027-01-16 08:00:00 UTC, but the history"),
    "begin-earlier": (lambda first, pending: edit(pending, nbf=NOW), "nbf is 2027-01-15 08:00:00 UTC, but the history"),
    "history-lost": (lambda first, pending: HISTORY.unlink(), "is not in the history"),
    "history-on-an-absent-volume": (
        lambda first, pending: (HISTORY.unlink(), HISTORY.symlink_to("nowhere/history.jsonl")),
        f"{HISTORY}: cannot be read (its link leads to no folder)",
    ),
}


@pytest.mark.parametrize("command", ["generate", "rotate", "cancel", "prune"])
@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_no_command_plans_on_files_that_trust_more_than_the_history_records(run, first, pending, kind, command):
    contradict, found = CONTRADICTIONS[kind]
    contradict(first, pending)
    before = {path: path.read_bytes() for path in Path("keys").rglob("*.*") if path.is_file()}
    done = run("keys", command, now=NOW + 60)
    assert (done.status, done.out) == (3, "")
    assert found in done.err
    assert "verifier keys merge" in done.err or kind == "history-on-an-absent-volume"
    assert {path: path.read_bytes() for path in Path("keys").rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["end-removed", "end-later", "history-lost"])
def test_a_change_that_was_intended_is_recorded_by_merge(run, first, pending, kind):
    CONTRADICTIONS[kind][0](first, pending)
    assert run("keys", "merge", now=NOW + 60).status == 0
    assert audit(run, NOW + 60).keys() <= {"overlapping-currents", *(["key-origin"] if kind == "history-lost" else ())}
    assert run("keys", "cancel", now=NOW + 60).status == 0


def test_a_key_that_no_command_added_stops_every_plan(run, first, pairs):
    shutil.copy("other.json", PUBLIC / f"{pairs['ES256'].kid}.json")
    edit(pairs["ES256"].kid, nbf=NOW - DAY, iat=NOW - DAY)
    done = run("keys", "rotate")
    assert done.status == 3
    assert f"{PUBLIC}/{pairs['ES256'].kid}.json: is not in the history; nothing was changed" in done.err


def test_merge_reports_the_revocation_that_it_restores(run, first):
    path = PUBLIC / f"{first}.json"
    trusted = path.read_bytes()
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    path.write_bytes(trusted)
    done = run("keys", "merge", now=NOW + 9)
    assert done == Done(0, "", f"verifier: warning: {path} was written again, because the history records it so\n")
    assert states()[first] == "revoked"


def test_merge_reports_the_removed_key_that_it_removes_again(run, first, pending):
    path = PUBLIC / f"{pending}.json"
    withdrawn = path.read_bytes()
    assert run("keys", "cancel").status == 0
    path.write_bytes(withdrawn)
    done = run("keys", "merge", now=NOW + 9)
    assert done == Done(0, "", f"verifier: warning: {path} was removed again, because the history records it so\n")
    assert states() == {first: "current"}


def test_prune_removes_the_private_key_of_a_key_that_the_history_records_as_ended(run, first, pending):
    kept = (PRIVATE / f"{pending}.pem").read_bytes()
    assert run("keys", "cancel").status == 0
    (PRIVATE / f"{pending}.pem").write_bytes(kept)
    (PRIVATE / f"{pending}.pem").chmod(0o600)
    found, remediation = audit(run)["private-kept"]
    assert (found, remediation) == (
        f"{PRIVATE}/{pending}.pem belongs to no key that verifies",
        "verifier keys prune",
    )
    done = run("keys", "prune", now=NOW + 60)
    assert (done.status, done.out.splitlines()[0]) == (0, f"{pending}  deleted (private key deleted)")
    assert not (PRIVATE / f"{pending}.pem").exists()
    assert audit(run, NOW + 60) == {}
    assert run("keys", "prune", now=NOW + 60) == Done(0, "Nothing to do.\n")


def test_prune_keeps_the_private_key_whose_public_key_is_on_another_branch(run, first):
    shutil.copytree("keys", "other-branch")
    assert run("keys", "rotate").status == 0
    (kid,) = states().keys() - {first}
    for name in ("public", "history.jsonl"):  # git checkout main: private/ is in no branch
        path = Path("keys") / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        source = Path("other-branch") / name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    found, remediation = audit(run)["private-kept"]
    assert found == f"{PRIVATE}/{kid}.pem belongs to no key that verifies"
    assert remediation == (
        f"its public key may be on another branch: git log --all -- '*{kid}.json'; if it is on none, delete "
        f"{PRIVATE}/{kid}.pem"
    )
    assert run("keys", "prune") == Done(0, "Nothing to do.\n")
    assert (PRIVATE / f"{kid}.pem").exists()


@pytest.mark.parametrize("damage", ["byte-order-mark", "missing"])
def test_the_private_key_of_a_public_file_to_restore_is_no_finding(run, first, damage):
    path = PUBLIC / f"{first}.json"
    good = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf{" + good) if damage == "byte-order-mark" else path.unlink()
    found = audit(run)
    assert "private-kept" not in found
    assert found["no-current"][1].startswith(f"repair {path}, or restore it from version control")
    path.write_bytes(good)
    assert audit(run) == {}


def test_without_a_current_key_the_remediation_is_a_command_that_works(run, first, pending):
    (PUBLIC / f"{first}.json").unlink()
    assert run("keys", "revoke", "--kid", first, "--reason", "lost", "--force").status == 0
    assert run("keys", "generate").status == 1
    text = f"{pending} signs from 2027-01-15 09:00:00 UTC; for a key now: verifier keys revoke --kid {pending[:8]} "
    assert audit(run)["no-current"][1] == f"{text}--replace --reason '...'"
    assert run("keys", "revoke", "--kid", pending[:8], "--replace", "--reason", "x").status == 0
    assert sorted(states().values()) == ["current", "revoked"]


def test_a_clock_behind_is_named_by_the_audit_and_by_the_list(run, first, pending):
    late = NOW - 2 * DAY
    assert audit(run, late)["no-current"][1].startswith("correct the clock of this machine")
    listed = run("keys", "list", now=late)
    assert listed.status == 1
    assert listed.err == (
        "verifier: error: the clock (2027-01-13 08:00:00 UTC) is behind the last line of keys/history.jsonl "
        "(2027-01-15 08:00:00 UTC)\n"
    )


def test_a_clock_behind_is_named_when_no_token_can_be_issued(run, first):
    done = run("token", "p", "--issuer", "https://x", "--application-id", "app", now=NOW - 2 * DAY)
    assert done.err == (
        f"verifier: error: keys/public: no current key (found {first}, pending until 2027-01-14 08:00:00 UTC: "
        "is this clock behind (2027-01-13 08:00:00 UTC)?)\nverifier: hint: verifier keys list\n"
    )


@pytest.mark.parametrize("state", ["current", "pending"])
def test_the_remediation_for_a_missing_private_key_works_in_both_states(run, first, pending, state):
    kid = first if state == "current" else pending
    (PRIVATE / f"{kid}.pem").unlink()
    remediation = audit(run)["private-missing"][1]
    command = shlex.split(remediation.partition(": verifier ")[2])
    expected = {"current": ["keys", "revoke", "--replace", "--reason", "..."], "pending": ["keys", "cancel"]}
    assert command == [*expected[state], "--kid", kid[:8]]
    assert run(*command).status == 0
    assert "private-missing" not in audit(run, NOW + 60)


def test_a_history_that_cannot_be_read_is_named_by_a_revocation(run, first, pending):
    HISTORY.unlink()
    HISTORY.mkdir()
    (PUBLIC / "broken.json").write_text("{")
    done = run("keys", "revoke", "--kid", first, "--reason", "x", "--replace")
    assert f"{HISTORY}: cannot be read (Is a directory); not taken into account" in done.err
    assert f"{PUBLIC}/broken.json: is not" in done.err
    assert (done.status, states()[first]) == (0, "revoked")


def test_a_revocation_proceeds_while_the_volume_of_the_history_is_absent(run, first, pending):
    CONTRADICTIONS["history-on-an-absent-volume"][0](first, pending)
    done = run("keys", "revoke", "--kid", first, "--reason", "x", "--replace")
    assert f"{HISTORY}: cannot be read (its link leads to no folder); not taken into account" in done.err
    assert f"{HISTORY} is damaged and has no line of this" in done.err
    assert (done.status, states()[first]) == (0, "revoked")


def test_a_linked_private_folder_keeps_its_mode_and_a_file_in_its_place_is_named(run, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o750)
    Path("keys").mkdir()
    PRIVATE.symlink_to(volume)
    assert run("keys", "generate").status == 0
    assert volume.stat().st_mode & 0o777 == 0o750
    PRIVATE.unlink()
    PRIVATE.write_text("")
    done = run("keys", "rotate")
    assert done == Done(
        3,
        "",
        f"verifier: error: {PRIVATE}: Not a directory; nothing was changed\n"
        f"verifier: hint: {PUBLIC} and {PRIVATE} must be folders, or links to folders\n",
    )


def test_confirm_appends_through_the_journal(run, first, monkeypatch):
    from verifier.storage import journal

    commits = []
    commit = journal.Directory.commit
    monkeypatch.setattr(
        journal.Directory, "commit", lambda *values: (commits.append(values[1].command), commit(*values))
    )
    assert run("keys", "confirm", "--record", "ftp://x").status == 1
    assert commits == ["confirm"]
    assert run("keys", "rotate", now=SWITCH).status == 0
    assert KeyDirectory(PUBLIC).load().find(first).exp == SWITCH + 3600 + 360


def test_a_key_that_was_cancelled_on_one_branch_and_signs_on_the_other_stays(run, first, pending):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("revoke", "--kid", first, "--reason", "x", "--replace"), NOW + 30))
    withdrawn = (PRIVATE / f"{pending}.pem").read_bytes()
    assert run("keys", "cancel", now=NOW + 60).status == 0
    merge_tree(Path("keys"), theirs, base)
    shutil.copy(theirs / "public" / f"{pending}.json", PUBLIC)  # git keeps the version that was changed
    (PRIVATE / f"{pending}.pem").write_bytes(withdrawn)
    done = run("keys", "merge", now=NOW + 90)
    assert (done.status, states(NOW + 90)) == (0, {first: "revoked", pending: "current"})
    assert done.err == (
        f"verifier: warning: {pending} signs now and is new to this branch: deploy {PUBLIC} to every replica first\n"
    )


def test_a_merge_after_which_no_key_signs_says_so(run, first, pending):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("revoke", "--kid", first, "--reason", "x", "--replace"), NOW + 30))
    assert run("keys", "revoke", "--kid", pending, "--reason", "y", now=NOW + 60).status == 0
    merge_tree(Path("keys"), theirs, base)
    done = run("keys", "merge", now=NOW + 90)
    assert (done.status, set(states(NOW + 90).values())) == (0, {"revoked"})
    assert (
        "verifier: warning: no key is current: every sign-in is rejected; verifier keys audit names the remedy\n"
        in (done.err)
    )
    assert run("keys", "generate", now=NOW + 90).status == 0


def test_the_remediation_for_two_pending_keys_names_each(run, first, pending):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("cancel",), NOW + 30), (("rotate",), NOW + 40))
    assert run("keys", "cancel", now=NOW + 50).status == 0
    assert run("keys", "rotate", now=NOW + 60).status == 0
    merge_tree(Path("keys"), theirs, base)
    assert run("keys", "merge", now=NOW + 90).status == 0
    mine, other = (kid for kid, state in states(NOW + 90).items() if state == "pending")
    assert audit(run, NOW + 90)["one-pending"] == (
        "2 keys are pending",
        f"withdraw all but one: verifier keys cancel --kid {mine[:8]} or verifier keys cancel --kid {other[:8]}",
    )
    assert run("keys", "cancel", "--kid", mine[:8], now=NOW + 90).status == 0
    assert "one-pending" not in audit(run, NOW + 90)


def test_where_every_key_has_expired_none_is_named_as_pending(run, first, pending):
    edit(first, exp=NOW - 1)
    edit(pending, nbf=NOW - 2, exp=NOW - 1)
    done = run("token", "p", "--issuer", "https://x", "--application-id", "app")
    assert done.err == "verifier: error: keys/public: no current key (found none)\nverifier: hint: verifier keys list\n"


def test_a_full_disk_when_folders_are_made_is_named(run, monkeypatch):
    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(atomic, "write_atomic", full)
    assert run("keys", "generate") == Done(
        3,
        "",
        f"verifier: error: {PRIVATE}/.gitignore: No space left on device; nothing was changed\n"
        "verifier: hint: remove the cause, then run the command again\n",
    )
