"""Merges by git of branches that changed keys: what `git merge` does without a conflict, and the hints as typed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_key_safety import HISTORY, NOW, PRIVATE, PUBLIC, SWITCH, key, states
from tests.cli.test_key_safety import first as first  # a fixture
from tests.cli.test_key_safety import pending as pending  # a fixture
from tests.rotation.test_tampering import AUTHOR, commit, git
from verifier.core.times import utc
from verifier.rotation import history, leaks

LATE = SWITCH + 60


@pytest.fixture
def repository(first, pending) -> Path:
    """The working directory as a repository in which a rotation is committed."""
    here = Path.cwd()
    git(here, "init", "-q", "-b", "main", "--template=")
    (here / ".gitignore").write_text("*\n!keys/\n!keys/**\n")
    commit(here)
    return here


def merge_late(run, repository: Path, *command: str) -> None:
    """Run a command on a branch, append a line of a secret to main after the switch, and merge the branch."""
    git(repository, "checkout", "-qb", "side")
    private = {path: path.read_bytes() for path in PRIVATE.glob("*.pem")}
    assert run("keys", *command, now=NOW + 60).status == 0
    commit(repository)
    git(repository, "checkout", "-q", "main")
    for path, content in private.items():  # of main's machine
        path.write_bytes(content)
        path.chmod(0o600)
    added = run("applications", "add", "my-application", stdin="the-secret-of-the-dashboard", now=LATE)
    assert added.status == 0
    commit(repository)
    subprocess.run(["git", *AUTHOR, "merge", "-q", "side"], cwd=repository, capture_output=True, check=False)


@pytest.mark.parametrize("committed", [False, True])
def test_a_key_that_signs_by_now_is_not_removed_by_a_cancellation_in_another_branch(
    run, repository, first, pending, committed
):
    merge_late(run, repository, "cancel")
    assert not (PUBLIC / f"{pending}.json").exists()
    if committed:  # with both sides' lines
        HISTORY.write_text(re.sub(r"(?m)^[<=>]{7}.*\n", "", HISTORY.read_text()))
        commit(repository)
    before = HISTORY.read_bytes()
    done = run("keys", "merge", now=LATE)
    assert (done.status, done.out, HISTORY.read_bytes()) == (3, "", before)
    path = PUBLIC / f"{pending}.json"
    missing = f"{path}: is missing, but its key signs on one of the branches; nothing was changed"
    assert done.err.startswith(f"verifier: error: {missing}\nverifier: hint: restore the file, then run ")
    restore = re.search(r"again: (git checkout .*); where", done.err)[1]
    subprocess.run(["bash", "-ec", restore], check=True)
    done = run("keys", "merge", now=LATE)
    before, after = utc(SWITCH + 360), utc(LATE + 360)
    moved = f"verifier: warning: the end of {first} moves to {after} (on this branch: {before})\n"
    assert (done.status, done.err.count(moved)) == (0, 1)
    assert states(LATE) == {first: "retiring", pending: "current"}
    assert (key(first).exp, key(pending).exp) == (LATE + 360, None)
    lines = [(e.kid, e.new) for e in history.load(HISTORY.read_bytes()).events if e.command == "merge"]
    assert sorted(lines) == sorted([(first, "retiring"), (pending, "current")])
    commit(repository)
    audited = json.loads(run("keys", "audit", "--json", now=LATE).out)
    assert audited["findings"] == []


def test_a_key_that_signs_and_whose_file_is_lost_is_given_up_by_force(run, repository, first, pending):
    merge_late(run, repository, "cancel")
    done = run("keys", "merge", "--force", now=LATE)
    assert (done.status, states(LATE)) == (0, {first: "current"})
    assert f"{pending}  deleted (merged another branch: 2 line(s) ending in " in done.out
    assert key(first).exp is None
    commit(repository)
    assert run("keys", "prune", now=LATE).status == 0  # the private key


def test_a_key_that_another_branch_revoked_is_not_restored(run, repository, first, pending):
    (PUBLIC / f"{pending}.json").unlink()
    commit(repository)
    merge_late(run, repository, "revoke", "--kid", pending, "--reason", "lost")
    assert run("keys", "merge", now=LATE).status == 0
    assert states(LATE) == {first: "current"}
    assert key(first).exp is None


def test_a_key_that_was_given_up_is_never_trusted_again(run, first, pending):
    path = PUBLIC / f"{pending}.json"
    content = path.read_bytes()
    path.unlink()
    assert run("keys", "revoke", "--kid", pending, "--reason", "lost").status == 0
    Path("again.json").write_bytes(content)
    done = run("keys", "import", "again.json", now=NOW + 9)
    assert done.status == 1
    assert "was revoked here: a revoked key is never trusted again" in done.err
    path.write_bytes(content)
    done = run("keys", "merge", now=NOW + 9)
    assert (done.status, path.exists()) == (0, False)
    assert done.err.startswith(f"verifier: warning: {path} was removed again, because the history records it so\n")


def test_the_audit_says_that_a_search_did_not_end(run, repository, monkeypatch):
    assert "not searched" not in run("keys", "audit").out
    monkeypatch.setattr(leaks, "TIMEOUT_S", 0)
    done = run("keys", "audit")
    text = "not searched for private keys outside of the key directory: git cat-file did not end in time"
    assert (done.status, done.out.splitlines()[-2]) == (0, f"        {text}")
    assert run("keys", "report", "--html", "report.html").status == 0
    assert "the rest of the repository was not searched</strong> (git cat-file did" in Path("report.html").read_text()


def test_a_key_file_that_no_command_created_is_found_after_a_merge_recorded_it(run, first, pairs, tmp_path):
    foreign = pairs["EdDSA"].public | {"iat": NOW - 60, "nbf": NOW - 60}
    (PUBLIC / f"{foreign['kid']}.json").write_text(json.dumps(foreign))
    assert run("keys", "merge", now=NOW + 9).status == 0
    number = [e.kid for e in history.load(HISTORY.read_bytes()).events].index(foreign["kid"]) + 1
    done = run("keys", "audit", now=NOW + 9)
    by = history.load(HISTORY.read_bytes()).events[0].by
    text = f"no command created {foreign['kid']}: line {number} (merge by {by}) is its first\n"
    assert f"medium    key-origin: {text}" in done.out
    assert run("keys", "report", "--html", "report.html", now=NOW + 9).status == 1
    assert "No command created 1 of the keys" in Path("report.html").read_text()
    reviewed = history.Anchor.of(HISTORY.read_bytes())
    assert "key-origin" not in run("keys", "audit", "--since", reviewed, now=NOW + 9).out


def test_a_cancellation_that_is_merged_too_late_without_a_conflict_is_found_before_the_deployment(
    run, repository, first, pending
):
    shutil.copytree("keys", "deployed")
    git(repository, "checkout", "-qb", "side")
    assert run("keys", "cancel", now=NOW + 60).status == 0
    commit(repository)
    git(repository, "checkout", "-q", "main")
    git(repository, "merge", "-q", "--no-ff", "side")
    assert os.listdir(PUBLIC) == [f"{first}.json"]
    for now, status in ((NOW + 60, 0), (LATE, 1)):
        done = run("keys", "audit", "--deployed", "deployed", now=now)
        assert done.status == status
    assert f"high      late-change: {pending} signs since " in done.out
    assert run("keys", "audit", now=LATE).status == 0


def test_secrets_and_confirmations_of_another_branch_are_kept(run, repository, first, pending):
    git(repository, "checkout", "-qb", "side")
    secret = "the-secret-of-the-dashboard"
    assert run("applications", "add", "my-application", stdin=secret, now=NOW + 60).status == 0
    commit(repository)
    line = HISTORY.read_bytes().splitlines()[-1]
    git(repository, "checkout", "-q", "main")
    assert run("keys", "cancel", now=NOW + 60).status == 0
    commit(repository)
    subprocess.run(["git", *AUTHOR, "merge", "-q", "side"], cwd=repository, capture_output=True, check=False)
    assert run("keys", "merge", now=NOW + 70).status == 0
    commit(repository)
    recorded = history.load(HISTORY.read_bytes())
    assert line.decode() in [text for event in recorded.events for text in event.merged]
    assert [event.application for event in recorded.secrets] == ["my-application"]
    audited = run("keys", "audit", "--json", "--applications", "applications.json", now=NOW + 70)
    assert json.loads(audited.out)["findings"] == []
