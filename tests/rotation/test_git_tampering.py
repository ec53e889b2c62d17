"""What can be set in a repository runs nothing and hides nothing; a line that no command writes is found."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import NOW
from tests.rotation.test_tampering import DAY, LONG, commit, drop_last_line, edit, git, public, rewrite_account
from tests.rotation.test_tampering import committed_keys as committed_keys  # a fixture
from tests.rotation.test_tampering import repository as repository  # a fixture
from verifier.rotation import history
from verifier.rotation.audit import findings
from verifier.rotation.history import Anchor
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import OverlapPolicy


def append(repository: SimpleNamespace, *lines: Any) -> None:
    repository.log.write_bytes(history.append(repository.log.read_bytes(), lines))


def last(repository: SimpleNamespace, kid: str) -> Any:
    events = history.load(repository.log.read_bytes()).events
    return replace([event for event in events if event.kid == kid][-1], at=NOW - 70 * DAY, reason="")


def config(repository: SimpleNamespace, text: str) -> None:
    with (repository.top / ".git" / "config").open("a") as file:
        file.write(text)


# What is added to the chain with valid digests, after the anchor.


def take_a_revocation_back(repository: SimpleNamespace) -> None:
    line = last(repository, repository.revoked)
    append(repository, replace(line, command="cancel", old="revoked", new="retiring", revoked_at=None, exp=None))
    edit(public(repository, repository.revoked), revoked=None, exp=None)


def take_a_revocation_back_as_a_merge(repository: SimpleNamespace) -> None:
    line = last(repository, repository.revoked)
    append(repository, replace(line, command="merge", old="revoked", new="retiring", revoked_at=None, exp=NOW))
    edit(public(repository, repository.revoked), revoked=None, exp=NOW)


def publish_a_revoked_key_again(repository: SimpleNamespace) -> None:
    line = last(repository, repository.revoked)
    gone = replace(line, command="prune", new="gone", nbf=None, exp=None, revoked_at=None, iat=None)
    append(repository, gone, replace(line, command="import", old="none", new="current", revoked_at=None))
    edit(public(repository, repository.revoked), revoked=None)


def move_a_revocation(repository: SimpleNamespace) -> None:
    append(repository, replace(last(repository, repository.revoked), revoked_at=NOW - 90 * DAY))
    edit(public(repository, repository.revoked), revoked={"revoked_at": NOW - 90 * DAY, "reason": "stolen"})


def trust_an_expired_key_again(repository: SimpleNamespace) -> None:
    append(repository, replace(last(repository, repository.first), command="cancel", new="retiring", exp=NOW + 9 * DAY))
    edit(public(repository, repository.first), exp=NOW + 9 * DAY)


def move_the_nbf_of_a_current_key(repository: SimpleNamespace) -> None:
    append(repository, replace(last(repository, repository.current), command="rotate", nbf=NOW - 110 * DAY))
    edit(public(repository, repository.current), nbf=NOW - 110 * DAY)


def move_the_iat_of_a_key(repository: SimpleNamespace) -> None:
    append(repository, replace(last(repository, repository.current), command="rotate", iat=NOW - 110 * DAY))
    edit(public(repository, repository.current), iat=NOW - 110 * DAY)


def publish_a_key_twice(repository: SimpleNamespace) -> None:
    append(repository, replace(last(repository, repository.current), command="import", old="none", note="from Bob"))


def extend_an_end_while_rotating(repository: SimpleNamespace) -> None:
    repository.rotate(NOW - 70 * DAY)
    lines = repository.log.read_bytes().splitlines(keepends=True)
    end = history.load(repository.log.read_bytes()).events[-1]
    assert end.kid == repository.current
    settings = {"max_lifetime_s": 300, "leeway_s": 30}
    long = replace(end, exp=NOW + 900 * DAY, **settings)
    repository.log.write_bytes(history.append(b"".join(lines[:-1]), [long]))
    edit(public(repository, repository.current), exp=NOW + 900 * DAY)
    git(repository.top, "add", "-A")
    git(repository.top, "commit", "-q", "--amend", "-m", "rotate")


def swap_two_files(repository: SimpleNamespace) -> None:
    first, second = public(repository, repository.first), public(repository, repository.current)
    content = first.read_text()
    first.write_text(second.read_text())
    second.write_text(content)


def remove_the_use_of_a_key(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.current), use=None)


def restore_a_file_that_was_pruned(repository: SimpleNamespace) -> None:
    path = public(repository, repository.first)
    content = path.read_text()
    line = last(repository, repository.first)
    append(repository, replace(line, command="prune", old="expired", new="gone", nbf=None, exp=None, iat=None))
    path.unlink()
    commit(repository.top)
    path.write_text(content)


# What is changed in the repository, so that the witness would be blind.


def graft(repository: SimpleNamespace) -> None:
    drop_last_line(repository)
    commit(repository.top)
    head = git(repository.top, "rev-parse", "HEAD").strip()
    (repository.top / ".git" / "info").mkdir(exist_ok=True)
    (repository.top / ".git" / "info" / "grafts").write_text(f"{head}\n")


def replace_the_parents(repository: SimpleNamespace) -> None:
    drop_last_line(repository)
    commit(repository.top)
    git(repository.top, "replace", "--graft", "HEAD")


def nest_a_repository(repository: SimpleNamespace) -> None:
    git(repository.keys, "init", "-q")
    (repository.keys / ".gitignore").write_text("private/\n")
    rewrite_account(repository)
    commit(repository.keys)


def link_to_another_repository(repository: SimpleNamespace) -> None:
    elsewhere = repository.top.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.move(repository.keys, elsewhere / "keys")
    repository.keys.symlink_to(elsewhere / "keys")
    git(elsewhere, "init", "-q")
    (elsewhere / ".gitignore").write_text("keys/private/\n")
    rewrite_account(repository)
    commit(elsewhere)


def move_the_working_tree(repository: SimpleNamespace) -> None:
    git(repository.top, "config", "core.worktree", str(repository.top.parent))
    drop_last_line(repository)


def link_the_history(repository: SimpleNamespace) -> None:
    repository.log.rename(repository.top / "copy.jsonl")
    repository.log.symlink_to(repository.top / "copy.jsonl")


def skip_a_file_of_the_working_tree(repository: SimpleNamespace) -> None:
    path = f"keys/public/{repository.first}.json"
    git(repository.top, "update-index", "--skip-worktree", path)
    (repository.top / path).unlink()


def check_out_sparsely(repository: SimpleNamespace) -> None:
    (repository.top / ".git" / "info").mkdir()
    git(repository.top, "status")  # the index of a copy is not up to date
    git(repository.top, "sparse-checkout", "set", "--no-cone", "/*", f"!keys/public/{repository.revoked}.json")


def filter_on_the_way_in(repository: SimpleNamespace) -> None:
    config(repository, '[filter "same"]\n\tclean = git cat-file blob HEAD:keys/history.jsonl\n')
    (repository.top / ".git" / "info").mkdir(exist_ok=True)
    (repository.top / ".git" / "info" / "attributes").write_text("*.jsonl filter=same\n")
    rewrite_account(repository)


def exclude_a_file(repository: SimpleNamespace) -> None:
    (repository.top / ".git" / "info").mkdir(exist_ok=True)
    (repository.top / ".git" / "info" / "exclude").write_text("keys/public/\n")
    path = public(repository, repository.first)
    shutil.copy(path, path.with_name("copy.json"))


def stage_another_content(repository: SimpleNamespace) -> None:
    content = repository.log.read_bytes()
    rewrite_account(repository)
    git(repository.top, "add", "-A")
    repository.log.write_bytes(content)


def include_a_program_for_signatures(repository: SimpleNamespace) -> None:
    (repository.top / ".git" / "more").write_text("[gpg]\n\tprogram = /bin/true\n")
    config(repository, "[include]\n\tpath = more\n")


def reset_to_an_older_commit(repository: SimpleNamespace) -> None:
    git(repository.top, "reset", "-q", "--hard", "HEAD~2")


def revert_a_commit(repository: SimpleNamespace) -> None:
    git(repository.top, "revert", "--no-edit", "HEAD~1..HEAD")


def squash_without_a_line(repository: SimpleNamespace) -> None:
    root = git(repository.top, "rev-list", "--max-parents=0", "HEAD").strip()
    git(repository.top, "reset", "-q", "--soft", root)
    rewrite_account(repository)
    git(repository.top, "add", "-A")
    git(repository.top, "commit", "-q", "--amend", "-m", "keys")


def public_keys_in_a_submodule(repository: SimpleNamespace) -> None:
    other = repository.top.parent / "other"
    shutil.copytree(repository.keys / "public", other)
    git(other, "init", "-q")
    commit(other)
    shutil.rmtree(repository.keys / "public")
    git(repository.top, "add", "-A")
    git(repository.top, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "keys/public")
    git(repository.top, "commit", "-qm", "submodule")


# What is edited in the lines that the history consists of, with the chain computed again.


def rewritten(change: Callable[[Any], Any]) -> Callable[[SimpleNamespace], None]:
    def attempt(repository: SimpleNamespace) -> None:
        lines = history.load(repository.log.read_bytes()).lines
        changed = [change(line) for line in lines]
        assert changed != list(lines)
        repository.log.write_bytes(history.append(b"", [line for line in changed if line is not None]))

    return attempt


def when(kind: type, **members: Any) -> Callable[[SimpleNamespace], None]:
    return rewritten(lambda line: replace(line, **members) if isinstance(line, kind) else line)


CONTEXT: dict[str, Callable[[SimpleNamespace], None]] = {
    "lead": when(history.Event, lead_s=60),
    "lifetime": when(history.Event, max_lifetime_s=120),
    "leeway": when(history.Event, leeway_s=1),
    "force": when(history.Event, force=True),
    "note": when(history.Event, note="from Bob"),
    "origin": when(history.Event, origin="0" * 64),
    "version": when(history.Event, version="0"),
    "algorithm": when(history.Event, alg="RS256"),
    "command": when(history.Event, command="import"),
    "previous end": when(history.Event, previous_exp=1),
    "no confirmations": rewritten(lambda line: None if isinstance(line, history.Confirmation) else line),
    "digest of a confirmation": when(history.Confirmation, key_set_digest="f" * 64),
    "clock of a confirmation": when(history.Confirmation, clock_offset_s=0),
    "result of a confirmation": when(history.Confirmation, confirmed=True, problem=""),
    "no secrets": rewritten(lambda line: None if isinstance(line, history.SecretEvent) else line),
    "account of a secret": when(history.SecretEvent, by="bob"),
    "digest of a secret": when(history.SecretEvent, sha256="f" * 12),
}


@pytest.fixture
def recorded(repository):
    """The repository with a confirmation and a secret, and the anchor after them."""
    by = {"at": NOW - 80 * DAY, "by": "ann"}
    confirmation = history.Confirmation(
        **by, command="confirm", replica="http://a", key_set_digest="0" * 64, confirmed=False, clock_offset_s=60,
        problem="connection refused",
    )  # fmt: skip
    secret = history.SecretEvent(
        **by, command="add", application="a", slot=1, sha256="0" * 12, old="none", new="active"
    )
    append(repository, confirmation, secret)
    commit(repository.top)
    repository.since = Anchor.of(repository.log.read_bytes())
    return repository


@pytest.mark.parametrize("attempt", CONTEXT)
def test_every_edit_of_a_value_in_the_chain_is_found(recorded, attempt):
    assert recorded.audit(since=recorded.since) == []
    CONTEXT[attempt](recorded)
    commit(recorded.top)
    assert {"anchor", "history-rewritten"} <= set(recorded.audit(since=recorded.since))
    assert "history-rewritten" in recorded.audit(since=None)


ATTEMPTS: dict[Callable[[SimpleNamespace], None], set[str]] = {
    take_a_revocation_back: {"history-transitions"},
    take_a_revocation_back_as_a_merge: {"history-transitions"},
    publish_a_revoked_key_again: {"history-transitions"},
    move_a_revocation: {"history-transitions"},
    trust_an_expired_key_again: {"history-transitions"},
    move_the_nbf_of_a_current_key: {"history-transitions"},
    move_the_iat_of_a_key: {"history-transitions"},
    publish_a_key_twice: {"history-transitions"},
    extend_an_end_while_rotating: {"history-transitions"},
    swap_two_files: {"kid", "history-agrees"},
    remove_the_use_of_a_key: {"members"},
    restore_a_file_that_was_pruned: {"history-agrees"},
    graft: {"anchor", "history-rewritten"},
    replace_the_parents: {"anchor", "history-rewritten"},
    nest_a_repository: {"anchor", "git"},
    link_to_another_repository: {"anchor", "git"},
    move_the_working_tree: {"anchor", "history-rewritten", "uncommitted"},
    link_the_history: {"uncommitted"},
    skip_a_file_of_the_working_tree: {"history-agrees", "uncommitted"},
    check_out_sparsely: {"history-agrees", "uncommitted"},
    filter_on_the_way_in: {"anchor", "history-rewritten", "uncommitted"},
    exclude_a_file: {"kid", "uncommitted"},
    stage_another_content: {"uncommitted"},
    include_a_program_for_signatures: {"git"},
    reset_to_an_older_commit: {"anchor"},
    revert_a_commit: {"anchor", "history-rewritten"},
    squash_without_a_line: {"anchor"},
    public_keys_in_a_submodule: {"uncommitted"},
}


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_every_attempt_is_found(repository, attempt):
    attempt(repository)
    assert ATTEMPTS[attempt] <= set(repository.audit())


@pytest.mark.parametrize("attempt", list(ATTEMPTS)[:9], ids=lambda attempt: attempt.__name__)
def test_a_line_that_no_command_writes_is_found_after_it_was_committed(repository, attempt):
    attempt(repository)
    if git(repository.top, "status", "--porcelain"):
        commit(repository.top)
    assert "history-transitions" in repository.audit()
    assert not {"anchor", "history-chain", "history-agrees", "uncommitted"} & set(repository.audit())


def test_what_commands_do_after_an_interruption_and_after_a_lost_revocation_is_no_finding(repository):
    now, first, revoked = NOW - 70 * DAY, repository.first, repository.revoked
    settings = {"max_lifetime_s": 300, "leeway_s": 30}
    late = replace(last(repository, first), command="cancel", old="expired", new="retiring", exp=now + 360, **settings)
    again = replace(last(repository, revoked), command="revoke", old="current", revoked_at=now, reason="again")
    append(repository, late, again)
    edit(public(repository, first), exp=now + 360)
    edit(public(repository, revoked), revoked={"revoked_at": now, "reason": "again"})
    commit(repository.top)
    assert repository.audit() == []
    edit(public(repository, first), exp=now + 361)
    append(repository, replace(late, exp=now + 361))
    commit(repository.top)
    assert repository.audit() == ["history-transitions"]


@pytest.mark.parametrize(
    "settings",
    [
        "[core]\n\tfsmonitor = {program}\n",
        "[core]\n\thooksPath = {folder}\n",
        '[filter "x"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired = true\n',
        '[diff]\n\texternal = {program}\n[diff "x"]\n\ttextconv = {program}\n\tcommand = {program}\n',
        '[gpg]\n\tprogram = {program}\n[gpg "ssh"]\n\tprogram = {program}\n\tdefaultKeyCommand = {program}\n',
        "[core]\n\tpager = {program}\n\tsshCommand = {program}\n\talternateRefsCommand = {program}\n",
        "[alias]\n\tlog = !{program}\n\tls-files = !{program}\n[trace2]\n\teventTarget = {folder}/trace\n",
        '[extensions]\n\tpartialClone = o\n[remote "o"]\n\turl = ext::{program}\n\tpromisor = true\n'
        '[protocol "ext"]\n\tallow = always\n',
    ],
    ids=["fsmonitor", "hooks", "filter", "diff", "gpg", "core", "alias", "promisor"],
)
def test_no_setting_of_the_repository_runs_a_program(repository, tmp_path, settings):
    folder = tmp_path / "hooks"
    folder.mkdir()
    ran, program = tmp_path / "ran", folder / "post-index-change"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for name in ("post-checkout", "reference-transaction", "fsmonitor-watchman"):
        shutil.copy(program, folder / name)
    (repository.top / ".gitattributes").write_text("* filter=x diff=x\n")
    sign(repository)
    config(repository, settings.format(program=program, folder=folder))
    if "promisor" in settings:
        blob = git(repository.top, "rev-parse", "HEAD~1:keys/history.jsonl").strip()
        (repository.top / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for path in (repository.log, *(repository.keys / "public").iterdir()):
        os.utime(path, (NOW, NOW))  # so that the index is not sure that it has not changed
    found = repository.audit(require_signed=True)
    assert not ran.exists()
    assert found


def sign(repository: SimpleNamespace) -> Path:
    """Commit once more, with a signature; return the file of the allowed signers, which only the repository has."""
    key, allowed = repository.top.parent / "id", repository.top / ".git" / "allowed"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed.write_text(f"mallory@game.example {key.with_suffix('.pub').read_text()}")
    append(repository, replace(last(repository, repository.current), command="prune", old="current"))
    git(repository.top, "add", "-A")
    git(repository.top, "-c", "gpg.format=ssh", "-c", f"user.signingKey={key}", "commit", "-q", "-S", "-m", "signed")
    return allowed


@pytest.mark.parametrize("where", ["config", "included", "worktree"])
def test_signers_that_the_repository_itself_trusts_are_not_trusted(repository, where):
    allowed = sign(repository)
    settings = f'[gpg "ssh"]\n\tallowedSignersFile = {allowed}\n[gpg]\n\tformat = ssh\n\tminTrustLevel = undefined\n'
    if where == "config":
        config(repository, settings)
    elif where == "included":
        (repository.top / ".git" / "more").write_text(settings)
        config(repository, "[include]\n\tpath = more\n")
    else:
        git(repository.top, "config", "extensions.worktreeConfig", "true")
        (repository.top / ".git" / "config.worktree").write_text(settings)
    assert git(repository.top, "log", "-1", "--format=%G?").strip() == "G"
    lines = len(repository.log.read_bytes().splitlines())
    assert repository.audit(require_signed=True, since=None, cryptoperiod_s=LONG) == ["signature"] * lines


def change_an_object(repository: SimpleNamespace) -> None:
    blob = git(repository.top, "rev-parse", "HEAD~1:keys/history.jsonl").strip()
    other = git(repository.top, "rev-parse", "HEAD:keys/history.jsonl").strip()
    objects = repository.top / ".git" / "objects"
    path = objects / blob[:2] / blob[2:]
    path.chmod(0o600)
    shutil.copy(objects / other[:2] / other[2:], path)


def test_a_history_whose_object_was_changed_is_found(repository):
    change_an_object(repository)
    assert "git" in repository.audit()


@pytest.mark.parametrize(
    ("attempt", "remedy"),
    [
        (change_an_object, "audit a fresh clone; git fsck names every damaged object"),
        (
            link_to_another_repository,
            "audit a clone in which the key directory is a plain folder of one repository",
        ),
        (
            include_a_program_for_signatures,
            "remove the setting from the repository: git config --unset; audit a fresh clone",
        ),
    ],
)
def test_what_git_could_not_be_queried_for_has_its_own_remedy(repository, attempt, remedy):
    attempt(repository)
    state = Inventory.read(repository.keys, now=NOW - 60 * DAY, window=OverlapPolicy())
    assert {finding.remediation for finding in findings(state) if finding.rule == "git"} == {remedy}


def test_a_repository_with_sha_256_is_a_witness_too(repository):
    shutil.rmtree(repository.top / ".git")
    git(repository.top, "init", "-q", "--object-format=sha256")
    commit(repository.top)
    assert repository.audit() == []
    drop_last_line(repository)
    commit(repository.top)
    assert {"anchor", "history-rewritten"} <= set(repository.audit())


def test_a_directory_that_is_a_repository_of_its_own_is_a_witness_too(repository):
    shutil.rmtree(repository.top / ".git")
    git(repository.keys, "init", "-q")
    (repository.keys / ".gitignore").write_text("private/\n")
    commit(repository.keys)
    assert repository.audit() == []
    git(repository.top, "init", "-q")  # which has no commit of the directory
    assert repository.audit() == []
    git(repository.keys, "add", "--force", "private")
    assert set(repository.audit()) == {"private-tracked"}
    (repository.top / ".git" / "HEAD").write_text("nonsense")  # so that nothing can be said of it
    assert set(repository.audit()) == {"private-tracked", "git"}


def test_a_link_is_as_committed_while_it_names_the_same_file(repository):
    link = repository.keys / "latest"
    link.symlink_to("history.jsonl")
    commit(repository.top)
    assert repository.audit() == []
    link.unlink()
    link.symlink_to("README.md")
    assert repository.audit() == ["uncommitted"]


def test_the_auditor_chooses_the_program_that_checks_signatures(repository, tmp_path, monkeypatch):
    (tmp_path / ".gitconfig").write_text("[gpg]\n\tprogram = gpg\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert repository.audit() == []


def test_a_directory_that_is_named_through_a_link_and_dots_is_the_same(repository, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(repository.top)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    git(tmp_path / "deep", "init", "-q")
    monkeypatch.chdir(tmp_path / "deep" / "er")
    for name in ("../../link/keys", "../../repository/keys"):
        state = Inventory.read(Path(name), now=NOW - 60 * DAY, window=OverlapPolicy())
        assert (state.witness.problems, state.witness.clean, len(state.witness.commit)) == ((), True, 40)
        assert json.loads(public(repository, repository.current).read_text())["kid"] in state.keyring.keys


@pytest.mark.parametrize("name", ["public/{current}.json", "public", "history.jsonl"])
def test_a_link_out_of_the_key_directory_is_not_committed_by_its_commit(repository, tmp_path, name):
    path = repository.keys / name.format(current=repository.current)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    commit(repository.top)
    state = Inventory.read(repository.keys, now=NOW - 60 * DAY, window=OverlapPolicy())
    link = path.relative_to(repository.keys).as_posix() + " (a link: commit what it leads to in its place)"
    assert link in state.witness.uncommitted
    assert "uncommitted" in repository.audit()


def test_a_private_key_behind_a_link_to_a_folder_is_found(repository, tmp_path):
    folder = tmp_path / "backup"
    shutil.copytree(repository.keys / "private", folder)
    (folder / "again").symlink_to(repository.keys)  # in a loop
    (repository.keys / "notes").symlink_to(folder)
    assert "private-elsewhere" in repository.audit()


def test_another_repository_in_the_key_directory_is_not_read(repository):
    git(repository.keys, "init", "-q", "other")
    git(repository.keys / "other", "commit", "-q", "--allow-empty", "-m", "x")
    commit(repository.top)
    assert repository.audit() == []


def test_a_clone_without_objects_says_how_to_get_them(repository, tmp_path):
    git(repository.top, "config", "uploadpack.allowFilter", "true")
    for option, text, remedy in (
        ("--filter=blob:none", "is missing", "audit a clone that was made without --filter"),
        ("--filter=tree:0", "unable to read", "audit a clone that was made without --filter"),
        (
            "--depth=1",
            "is shallow",
            "fetch the other commits: git fetch --unshallow; in CI, check out with fetch-depth: 0",
        ),
    ):
        folder = tmp_path / option[2:7].strip("=:")
        git(tmp_path, "clone", "-q", option, repository.top.as_uri(), str(folder))
        state = Inventory.read(folder / "keys", now=NOW - 60 * DAY, window=OverlapPolicy())
        (found,) = [finding for finding in findings(state) if finding.rule == "git"]
        assert (text in found.found, found.remediation) == (True, remedy)
        shutil.rmtree(folder)


def test_objects_are_read_in_parts(repository, monkeypatch):
    monkeypatch.setattr("verifier.rotation.git.BATCH_BYTES", 1)
    assert repository.audit() == []
