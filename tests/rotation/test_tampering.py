"""Tampering with a committed key directory: every attempt is a finding, an honest change is none."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import NOW
from verifier.core.applications import Applications, Secret
from verifier.rotation import history, plan, witness
from verifier.rotation.audit import findings
from verifier.rotation.history import Anchor
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import OverlapPolicy, Planner
from verifier.rotation.secret_changes import add_secret, dump
from verifier.signing.keystore import Keystore

DAY = 86_400
LONG = 1000 * DAY  # a cryptoperiod that no key here reaches
AUTHOR = ("-c", "user.name=Ann", "-c", "user.email=ann@game.example", "-c", "commit.gpgSign=false")


def git(folder: Path, *arguments: str) -> str:
    # Because a line is not newer than the commit that adds it, and the time of the tests is not that of the machine.
    environment = {"GIT_COMMITTER_DATE": f"{NOW + DAY} +0000"} | os.environ
    return subprocess.run(
        ["git", *AUTHOR, *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment
    ).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "change")


def changer(top: Path) -> Callable[..., str]:
    """Return a function that runs a change of keys at a time, commits it, and returns the first kid of its plan."""
    store = Keystore(top / "keys")

    def change(command: str, make: Callable[[Any, Any], plan.Plan], now: int) -> str:
        members, pem = store.generate_pair("ES256")
        with store.transaction() as keyring:
            steps = make(keyring, members)
            events = store.apply(steps, command, now=now, pem=pem if steps[0].kid == members["kid"] else None)
        commit(top)
        return events[0].kid

    return change


def rotation(now: int) -> tuple[str, Callable[[Any, Any], plan.Plan], int]:
    return "rotate", lambda ring, members: Planner(ring, now).rotate(members), now


def pruning(now: int) -> tuple[str, Callable[[Any, Any], plan.Plan], int]:
    return "prune", lambda ring, _: Planner(ring, now).prune(), now


@pytest.fixture(scope="session")
def committed_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Three keys over a year, the second revoked, each change committed; and their kids."""
    top = tmp_path_factory.mktemp("committed")
    (top / ".gitignore").write_text("keys/private/\n")
    git(top, "init", "-q", "--template=")
    change = changer(top)
    first = change("generate", lambda _, m: [plan.activate_first_key(m, now=NOW - 300 * DAY)], NOW - 300 * DAY)
    revoked = change(*rotation(NOW - 200 * DAY))

    def revoke(ring: Any, members: Any) -> plan.Plan:
        return Planner(ring, NOW - 100 * DAY).revoke(ring.keys[revoked], "stolen", replacement=members)

    current = change("revoke", revoke, NOW - 100 * DAY)
    change(*pruning(NOW - 99 * DAY))
    return top, [first, revoked, current]


@pytest.fixture
def repository(committed_keys: tuple[Path, list[str]], tmp_path: Path) -> SimpleNamespace:
    """A copy of the committed directory, and the anchor that the auditor kept."""
    top = tmp_path / "repository"
    shutil.copytree(committed_keys[0], top, symlinks=True)
    keys, change = top / "keys", changer(top)
    store = Keystore(keys)
    anchor = Anchor.of(store.read_history())

    def audit(**options: Any) -> list[str]:
        now, since = options.pop("now", NOW - 60 * DAY), options.pop("since", anchor)
        state = Inventory.read(keys, now=now, window=OverlapPolicy(), since=since, **options)
        return [finding.rule for finding in findings(state)]

    return SimpleNamespace(
        top=top, keys=keys, store=store, log=keys / "history.jsonl", audit=audit, anchor=anchor,
        rotate=lambda now: change(*rotation(now)), prune=lambda now: change(*pruning(now)),
        **dict(zip(("first", "revoked", "current"), committed_keys[1], strict=True)),
    )  # fmt: skip


def test_the_honest_directory_and_its_honest_future_have_no_findings(repository):
    assert repository.audit() == []
    repository.rotate(NOW - 50 * DAY)
    assert repository.audit(now=NOW - 50 * DAY) == []
    repository.prune(NOW - 49 * DAY)
    assert repository.audit(now=NOW - 49 * DAY) == []
    assert repository.audit(now=NOW - 49 * DAY, since=Anchor.of(repository.store.read_history())) == []


def public(repository: SimpleNamespace, kid: str) -> Path:
    return Path(repository.keys / "public" / f"{kid}.json")


def edit(path: Path, **members: Any) -> None:
    found = json.loads(path.read_text()) | members
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def rewrite(repository: SimpleNamespace, change: Callable[[int, Any], Any]) -> None:
    """Write the whole chain again, each line as `change` returns it; None leaves it out."""
    lines = history.load(repository.log.read_bytes()).lines
    changed = [change(number, line) for number, line in enumerate(lines)]
    repository.log.write_bytes(history.append(b"", [line for line in changed if line is not None]))


def drop_last_line(repository: SimpleNamespace) -> None:
    repository.log.write_bytes(b"".join(repository.log.read_bytes().splitlines(keepends=True)[:-1]))


def rewrite_account(repository: SimpleNamespace) -> None:
    rewrite(repository, lambda _, line: replace(line, by="mallory"))


def rewrite_time(repository: SimpleNamespace) -> None:
    rewrite(repository, lambda number, line: replace(line, at=line.at + 1) if number == 1 else line)


def rewrite_without_a_line(repository: SimpleNamespace) -> None:
    rewrite(repository, lambda number, line: None if number == 2 else line)


def rewrite_reason(repository: SimpleNamespace) -> None:
    def change(_: int, line: Any) -> Any:
        return replace(line, reason="routine") if line.reason == "stolen" else line

    rewrite(repository, change)
    edit(public(repository, repository.revoked), revoked={"revoked_at": NOW - 100 * DAY, "reason": "routine"})


def rewrite_revocation_away(repository: SimpleNamespace) -> None:
    rewrite(repository, lambda _, line: None if line.new == "revoked" else line)
    edit(public(repository, repository.revoked), revoked=None)


def rewrite_everything(repository: SimpleNamespace) -> None:
    shutil.rmtree(repository.keys / "public")
    shutil.rmtree(repository.keys / "private")
    repository.log.unlink()
    store = Keystore(repository.keys)
    members, pem = store.generate_pair("ES256")
    with store.transaction():
        store.apply([plan.activate_first_key(members, now=NOW - 100 * DAY)], "generate", now=NOW - 100 * DAY, pem=pem)


def delete_the_history(repository: SimpleNamespace) -> None:
    repository.log.unlink()


def empty_the_history(repository: SimpleNamespace) -> None:
    repository.log.write_bytes(b"")


def reorder_lines(repository: SimpleNamespace) -> None:
    lines = repository.log.read_bytes().splitlines(keepends=True)
    repository.log.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))


def line_in_the_future(repository: SimpleNamespace) -> None:
    last = history.load(repository.log.read_bytes()).events[-1]
    repository.log.write_bytes(history.append(repository.log.read_bytes(), [replace(last, at=NOW + DAY)]))


def line_in_the_past(repository: SimpleNamespace) -> None:
    last = history.load(repository.log.read_bytes()).events[-1]
    repository.log.write_bytes(history.append(repository.log.read_bytes(), [replace(last, at=NOW - 290 * DAY)]))


def roll_back(repository: SimpleNamespace) -> None:
    git(repository.top, "checkout", "-q", "HEAD~2", "--", "keys")
    for path in (repository.keys / "public").iterdir():
        if path.stem not in git(repository.top, "ls-tree", "-r", "--name-only", "HEAD~2"):
            path.unlink()


def undo_the_revocation(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.revoked), revoked=None, exp=None)


def edit_revoked_at(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.revoked), revoked={"revoked_at": NOW - 90 * DAY, "reason": "stolen"})


def edit_reason(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.revoked), revoked={"revoked_at": NOW - 100 * DAY, "reason": "routine"})


def edit_iat(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.current), iat=NOW - 101 * DAY)


def edit_nbf(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.current), nbf=NOW - 101 * DAY)


def extend_exp(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.first), exp=NOW + 900 * DAY)


def add_key_ops(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.current), key_ops=["sign"])


def add_a_member(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.current), x5u="https://evil.example")


def foreign_key(repository: SimpleNamespace) -> None:
    store = Keystore(repository.top / "elsewhere")
    members, _ = store.generate_pair("ES256")
    path = public(repository, members["kid"])
    path.write_text(json.dumps(members | {"iat": NOW - 70 * DAY, "nbf": NOW - 70 * DAY}))


def remove_a_key(repository: SimpleNamespace) -> None:
    public(repository, repository.revoked).unlink()


def hidden_private_key(repository: SimpleNamespace) -> None:
    (repository.keys / "old").mkdir()
    shutil.copy(repository.keys / "private" / f"{repository.current}.pem", repository.keys / "old" / "x.pem")


def private_key_under_another_name(repository: SimpleNamespace) -> None:
    shutil.copy(repository.keys / "private" / f"{repository.current}.pem", repository.keys / "notes.txt")


def private_key_committed(repository: SimpleNamespace) -> None:
    git(repository.top, "add", "--force", f"keys/private/{repository.current}.pem")


def private_key_once_committed(repository: SimpleNamespace) -> None:
    private_key_committed(repository)
    git(repository.top, "commit", "-qm", "oops")
    git(repository.top, "rm", "-q", "--cached", f"keys/private/{repository.current}.pem")


def private_key_on_another_branch(repository: SimpleNamespace) -> None:
    branch = git(repository.top, "symbolic-ref", "--short", "HEAD").strip()
    git(repository.top, "checkout", "-q", "-b", "side")
    (repository.keys / "leak.txt").write_bytes((repository.keys / "private" / f"{repository.current}.pem").read_bytes())
    commit(repository.top)
    git(repository.top, "checkout", "-q", branch)


def private_key_lost(repository: SimpleNamespace) -> None:
    other, pem = repository.store.generate_pair("ES256")
    path = repository.keys / "private" / f"{other['kid']}.pem"
    path.write_text(pem)
    path.chmod(0o600)
    (repository.keys / "private" / f"{repository.current}.pem").unlink()


def open_directory(repository: SimpleNamespace) -> None:
    (repository.keys / "public").chmod(0o777)


def open_file(repository: SimpleNamespace) -> None:
    repository.log.chmod(0o666)


def open_private_key(repository: SimpleNamespace) -> None:
    (repository.keys / "private" / f"{repository.current}.pem").chmod(0o644)


def history_in_utf_16(repository: SimpleNamespace) -> None:
    repository.log.write_bytes(repository.log.read_bytes().decode().encode("utf-16"))


def hide_from_the_index(repository: SimpleNamespace) -> None:
    edit(public(repository, repository.revoked), revoked=None, exp=None)
    git(repository.top, "update-index", "--assume-unchanged", f"keys/public/{repository.revoked}.json")


def break_git(repository: SimpleNamespace) -> None:
    (repository.top / ".git" / "HEAD").write_text("nonsense")


def cut_git_off(repository: SimpleNamespace) -> None:
    head = git(repository.top, "rev-parse", "HEAD").strip()
    (repository.top / ".git" / "shallow").write_text(head + "\n")


def replace_the_signature_program(repository: SimpleNamespace) -> None:
    git(repository.top, "config", "gpg.program", "/bin/true")


ATTEMPTS: dict[Callable[[SimpleNamespace], None], set[str]] = {
    drop_last_line: {"anchor", "history-rewritten"},
    rewrite_account: {"anchor", "history-rewritten"},
    rewrite_time: {"anchor", "history-rewritten"},
    rewrite_without_a_line: {"anchor", "history-rewritten"},
    rewrite_reason: {"anchor", "history-rewritten"},
    rewrite_revocation_away: {"anchor", "history-rewritten"},
    rewrite_everything: {"anchor", "history-rewritten"},
    delete_the_history: {"anchor", "history-rewritten", "history-agrees"},
    empty_the_history: {"anchor", "history-rewritten", "history-agrees"},
    reorder_lines: {"history-chain"},
    line_in_the_future: {"history-time"},
    line_in_the_past: {"history-time"},
    roll_back: {"anchor", "history-rewritten"},
    undo_the_revocation: {"history-agrees"},
    edit_revoked_at: {"history-agrees"},
    edit_reason: {"history-agrees"},
    edit_iat: {"history-agrees"},
    edit_nbf: {"history-agrees"},
    extend_exp: {"history-agrees"},
    add_key_ops: {"members"},
    add_a_member: {"members"},
    foreign_key: {"history-agrees"},
    remove_a_key: {"history-agrees"},
    hidden_private_key: {"private-elsewhere"},
    private_key_under_another_name: {"private-elsewhere"},
    private_key_committed: {"private-tracked"},
    private_key_once_committed: {"private-tracked"},
    private_key_on_another_branch: {"private-tracked"},
    private_key_lost: {"private-missing"},
    open_directory: {"writable"},
    open_file: {"writable"},
    open_private_key: {"private-mode"},
    history_in_utf_16: {"history-chain", "history-rewritten", "anchor"},
    hide_from_the_index: {"history-agrees", "uncommitted"},
    break_git: {"git"},
    cut_git_off: {"git"},
    replace_the_signature_program: {"git"},
}
NOT_COMMITTED = {
    private_key_committed, private_key_once_committed, private_key_on_another_branch, private_key_lost,
    open_private_key, open_directory, open_file, break_git, cut_git_off, replace_the_signature_program,
    hide_from_the_index,
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
@pytest.mark.parametrize("committed", [False, True], ids=["uncommitted", "committed"])
def test_every_attempt_is_found(repository, attempt, committed):
    attempt(repository)
    if committed and attempt not in NOT_COMMITTED:
        commit(repository.top)
    elif attempt not in NOT_COMMITTED:
        assert "uncommitted" in repository.audit()
    assert ATTEMPTS[attempt] <= set(repository.audit())


@pytest.mark.parametrize("attempt", [a for a, rules in ATTEMPTS.items() if "anchor" in rules], ids=lambda a: a.__name__)
def test_a_rewrite_is_found_by_the_anchor_where_there_is_no_git(repository, attempt):
    attempt(repository)
    shutil.rmtree(repository.top / ".git")
    assert "anchor" in repository.audit()


@pytest.mark.parametrize("attempt", [drop_last_line, rewrite_account, roll_back], ids=lambda a: a.__name__)
def test_a_rewrite_is_found_by_git_where_no_anchor_was_kept(repository, attempt):
    attempt(repository)
    commit(repository.top)
    assert "history-rewritten" in repository.audit(since=None)


def test_the_end_of_the_chain_is_protected_by_the_files_where_they_show_it(repository):
    shutil.rmtree(repository.top / ".git")
    repository.log.write_bytes(b"".join(repository.log.read_bytes().splitlines(keepends=True)[:4]))
    assert "history-agrees" in repository.audit(since=None)


def test_a_repository_of_another_owner_is_a_finding(repository):
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    for path in (repository.top, repository.top / ".git"):
        os.chown(path, 12345, 12345)
    assert "git" in repository.audit()


def test_the_environment_of_a_hook_does_not_lead_elsewhere(repository, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert repository.audit() == []


def test_a_worktree_is_a_repository_too(repository, tmp_path):
    tree = tmp_path / "tree"
    git(repository.top, "worktree", "add", "-q", str(tree), "-b", "side")
    drop_last_line(SimpleNamespace(log=tree / "keys" / "history.jsonl"))
    state = Inventory.read(tree / "keys", now=NOW - 60 * DAY, window=OverlapPolicy())
    assert {"history-rewritten", "uncommitted"} <= {finding.rule for finding in findings(state)}


def test_lines_of_a_branch_that_was_merged_with_a_record_are_not_lost(repository):
    lines = repository.log.read_bytes().splitlines()
    last = history.load(repository.log.read_bytes()).events[-1]
    branch = git(repository.top, "symbolic-ref", "--short", "HEAD").strip()
    git(repository.top, "checkout", "-q", "-b", "side")
    other = history.append(repository.log.read_bytes(), [replace(last, by="bob", at=NOW - 80 * DAY)])
    repository.log.write_bytes(other)
    commit(repository.top)
    git(repository.top, "checkout", "-q", branch)
    own = history.append(repository.log.read_bytes(), [replace(last, at=NOW - 79 * DAY)])
    repository.log.write_bytes(own)
    commit(repository.top)
    merged = (other.splitlines()[-1].decode(),)
    record = replace(last, command="merge", at=NOW - 78 * DAY, merged=merged)
    git(repository.top, "merge", "-q", "--no-commit", "-s", "ours", "side")
    repository.log.write_bytes(history.append(own, [record]))
    commit(repository.top)
    assert len(lines) + 2 == len(repository.log.read_bytes().splitlines())
    assert repository.audit() == []
    repository.log.write_bytes(history.append(own, [replace(record, merged=())]))
    assert {"history-rewritten", "uncommitted"} <= set(repository.audit())


@pytest.mark.parametrize("change", ["swap", "remove", "add"])
def test_secrets_that_no_command_set_are_found(repository, tmp_path, change):
    path = tmp_path / "applications.json"
    known = add_secret(Applications(), "app", Secret.of("first-secret-of-the-dashboard"))
    digest = known.by_id["app"].secrets[0].digest.hex()[:12]
    line = history.SecretEvent(
        at=NOW - 70 * DAY, by="ann", command="add", application="app", slot=1, sha256=digest, old="none", new="active"
    )
    repository.log.write_bytes(history.append(repository.log.read_bytes(), [line]))
    path.write_bytes(dump(known))
    commit(repository.top)
    assert repository.audit(applications=path) == []
    other = Secret.of("another-secret-of-mallory")
    changed = {
        "swap": add_secret(Applications(), "app", other),
        "remove": Applications(),
        "add": add_secret(known, "app", other),
    }[change]
    path.write_bytes(dump(changed))
    assert "secrets-agree" in repository.audit(applications=path)


def test_one_secret_for_two_applications_is_found(repository, tmp_path):
    path, secret = tmp_path / "applications.json", Secret.of("first-secret-of-the-dashboard")
    path.write_bytes(dump(add_secret(add_secret(Applications(), "a", secret), "b", secret)))
    assert repository.audit(applications=path) == ["shared-secret"]


def test_unsigned_lines_are_found_where_signatures_are_required(repository):
    lines = len(repository.log.read_bytes().splitlines())
    assert repository.audit(require_signed=True) == []  # none was added since the anchor
    since = Anchor(2, history.digest(repository.log.read_bytes().splitlines()[1]))
    assert repository.audit(require_signed=True, since=since, cryptoperiod_s=LONG) == ["signature"] * (lines - 2)
    assert repository.audit(require_signed=True, since=None, cryptoperiod_s=LONG) == ["signature"] * lines
    shutil.rmtree(repository.top / ".git")
    assert repository.audit(require_signed=True) == ["signature"]


def test_signed_lines_are_accepted(repository, tmp_path, monkeypatch):
    key, home = tmp_path / "id", tmp_path / "home"
    home.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (home / "allowed").write_text(f"ann@game.example {key.with_suffix('.pub').read_text()}")
    settings = f'[gpg]\nformat = ssh\n[gpg "ssh"]\nallowedSignersFile = {home}/allowed\n[user]\nsigningKey = {key}\n'
    (home / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(home))
    shutil.rmtree(repository.top / ".git")
    git(repository.top, "init", "-q")
    git(repository.top, "add", "-A")
    git(repository.top, "commit", "-q", "-S", "-m", "signed")
    assert repository.audit(require_signed=True, since=None, cryptoperiod_s=LONG) == []
    (home / "allowed").write_text("")
    assert set(repository.audit(require_signed=True, since=None, cryptoperiod_s=LONG)) == {"signature"}
    (home / ".gitconfig").write_text("")  # without signers, git itself says that the commit is not signed
    assert {line.signature for line in witness.query(repository.keys, repository.log.read_bytes()).lines} == {"E"}


def test_applications_that_are_not_as_committed_are_found(repository, tmp_path):
    path, other = repository.top / "applications.json", tmp_path / "applications.json"
    for file in (path, other):
        file.write_bytes(dump(add_secret(Applications(), "app", Secret.of("first-secret-of-the-dashboard"))))
    assert repository.audit(applications=other) == []  # in no repository
    assert repository.audit(applications=path) == ["uncommitted"]
    commit(repository.top)
    assert repository.audit(applications=path) == []
    path.write_bytes(path.read_bytes() + b"\n")
    assert repository.audit(applications=path) == ["uncommitted"]
    git(repository.top, "rm", "-q", "--cached", "applications.json")
    (repository.top / ".git" / "info").mkdir(exist_ok=True)
    (repository.top / ".git" / "info" / "exclude").write_text("applications.json\n")
    assert repository.audit(applications=path) == ["uncommitted"]
    git(repository.top, "commit", "-qm", "x")
    assert repository.audit(applications=path) == []  # it is ignored, as one that holds a staging secret
