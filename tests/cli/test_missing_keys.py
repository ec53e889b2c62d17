"""A key whose file is missing, and files that are no files: what is given up, what remains, and what is named."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.test_key_safety import HISTORY, NOW, PRIVATE, PUBLIC, SWITCH, key, states
from tests.cli.test_key_safety import first as first  # a fixture
from tests.cli.test_key_safety import pending as pending  # a fixture
from tests.conftest import Done
from verifier.rotation import history
from verifier.storage import atomic


def give_up(run, kid: str, *options: str, now: int = NOW) -> Done:
    (PUBLIC / f"{kid}.json").unlink()
    return run("keys", "revoke", "--kid", kid, "--reason", "lost", *options, now=now)


def rules(run, now: int) -> set[str]:
    return {finding["rule"] for finding in json.loads(run("keys", "audit", "--json", now=now).out)["findings"]}


def test_giving_the_pending_key_up_leaves_the_current_one_without_an_end(run, first, pending):
    assert give_up(run, pending).status == 0
    assert key(first).exp is None
    assert rules(run, NOW) == {"private-kept"}
    assert run("keys", "prune").status == 0
    assert rules(run, NOW) == set()


def test_giving_the_current_key_up_leaves_the_key_before_it_signing(run, first, pending):
    now = SWITCH + 60
    assert give_up(run, pending, now=now).status == 0
    assert (states(now), key(first).exp) == ({first: "current"}, None)
    assert rules(run, now) == {"private-kept"}


def test_giving_the_only_key_up_needs_a_replacement_or_force(run, first):
    before = HISTORY.read_bytes()
    done = give_up(run, first)
    assert (done.status, HISTORY.read_bytes()) == (1, before)
    assert "verifier: error: no other key can sign: every sign-in would be rejected\n" in done.err
    assert run("keys", "revoke", "--kid", first, "--reason", "lost", "--replace").status == 0
    assert list(states().values()) == ["current"]
    assert rules(run, NOW) == {"private-kept"}


def test_giving_the_only_key_up_by_force_says_that_none_is_left(run, first):
    done = give_up(run, first, "--force")
    assert done.status == 0
    assert "verifier: warning: no key is current: every sign-in is rejected; verifier keys audit" in done.err


def test_giving_the_current_key_up_promotes_the_pending_one(run, first, pending):
    done = give_up(run, first, "--replace")
    assert (done.status, states()) == (0, {pending: "current"})
    assert "no effect" not in done.err


def test_a_replacement_of_a_missing_key_that_does_not_sign_is_reported(run, first, pending):
    assert f"--replace has no effect: {pending} is missing and {first} signs" in give_up(run, pending, "--replace").err


def test_no_missing_key_is_given_up_beside_a_damaged_history(run, first, pending):
    HISTORY.write_bytes(b"<<<<<<< HEAD\n" + HISTORY.read_bytes())
    before = HISTORY.read_bytes()
    done = give_up(run, pending)
    assert (done.status, HISTORY.read_bytes()) == (3, before)
    path = PUBLIC / f"{pending}.json"
    assert (
        f"{path}: is missing, and {HISTORY} is damaged: nothing was changed, because nothing can record it" in done.err
    )


def test_the_list_names_what_the_history_contradicts(run, first, pending):
    path = PUBLIC / f"{pending}.json"
    content = path.read_bytes()
    path.unlink()
    missing = f"verifier: error: {path}: is missing, but the history records a key that has not ended\n"
    assert (run("keys", "list").status, run("keys", "list").err) == (1, missing)
    path.write_bytes(content)
    assert run("keys", "list").status == 0
    log = HISTORY.read_bytes()
    HISTORY.write_bytes(log + b"=======\n")
    assert run("keys", "list").err == f"verifier: error: {HISTORY}: line 4 is not an event\n"
    HISTORY.unlink()
    assert run("keys", "list").status == 0  # a replica has public/ only
    os.mkfifo(HISTORY)
    expected = f"verifier: error: {HISTORY}: cannot be read (is a pipe, not a regular file)\n"
    assert (run("keys", "list").status, run("keys", "list").err) == (1, expected)


def test_a_merge_names_the_path_of_a_file_that_cannot_be_used(run, first):
    path = PUBLIC / f"{first}.json"
    path.write_text("{")
    assert run("keys", "merge") == Done(
        3,
        "",
        f"verifier: error: {path}: has no usable version; nothing was changed\n"
        "verifier: hint: repair the file or restore it from version control, then run verifier keys merge again\n",
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_revocation_replaces_a_journal_that_is_no_file(run, first, make):
    make(PRIVATE / ".commit.json")
    assert run("keys", "rotate").status == 1
    done = run("keys", "revoke", "--kid", first, "--reason", "x", "--replace")
    assert (done.status, states()[first]) == (0, "revoked")
    assert run("keys", "rotate", now=NOW + 9).status == 0


def test_a_pipe_in_the_place_of_a_private_key_is_pruned(run, first):
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    path = PRIVATE / f"{first}.pem"
    path.unlink()
    os.mkfifo(path)
    assert run("keys", "prune", now=NOW + 9).status == 0
    assert not path.exists()
    assert run("keys", "rotate", now=NOW + 9).status == 0


def test_a_private_key_behind_a_link_is_pruned_and_a_device_is_not(run, first, tmp_path):
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    path = PRIVATE / f"{first}.pem"
    path.unlink()
    device = tmp_path / "device"
    os.mkfifo(device)
    path.symlink_to(device)
    assert run("keys", "prune", now=NOW + 9).status == 0
    assert (path.is_symlink(), device.exists()) == (False, True)


def test_the_audit_names_a_history_whose_volume_is_absent_and_passes_links_in_a_loop(run, first):
    for name in ("public/loop", "loop"):
        (Path("keys") / name).symlink_to(Path(name).name)
    assert rules(run, NOW) == set()
    HISTORY.unlink()
    HISTORY.symlink_to("absent/history.jsonl")
    assert run("keys", "audit") == Done(
        3,
        "",
        f"verifier: error: {HISTORY}: cannot be read (No such file or directory)\n"
        "verifier: hint: restore the file, or mount the volume that its link leads to\n",
    )


def test_a_line_of_a_key_that_was_given_up_and_is_trusted_again_is_found(run, first, pending):
    assert give_up(run, pending).status == 0
    lines = history.load(HISTORY.read_bytes()).events
    published = next(line for line in lines if line.kid == pending and line.old == "none")
    HISTORY.write_bytes(history.append(HISTORY.read_bytes(), [published]))
    assert "history-transitions" in rules(run, NOW)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_no_private_key(run, first, pending, make):
    for kid, verb in ((first, "is the current key"), (pending, "signs from")):
        path = PRIVATE / f"{kid}.pem"
        kept = path.read_bytes()
        path.unlink()
        make(path)
        assert f"verifier: error: {path} is missing, and {kid} {verb}" in run("keys", "list").err
        assert rules(run, NOW) == {"private-missing"}
        if kid == pending:
            break
        os.rmdir(path) if path.is_dir() else path.unlink()
        path.write_bytes(kept)
        path.chmod(0o600)
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    assert (states()[pending], len(states())) == ("pending", 3)  # it could not sign


def test_a_merge_names_a_missing_key_that_it_leaves_to_be_decided(run, first, pending):
    path = PUBLIC / f"{pending}.json"
    path.unlink()
    done = run("keys", "merge")
    missing = (
        f"verifier: warning: {path}: is missing, but the history records a key that has not ended; restore the file"
    )
    assert (done.status, done.err.startswith(missing)) == (0, True)


def test_without_a_merge_the_hints_about_a_missing_current_key_lead_to_another(run, first):
    path = PUBLIC / f"{first}.json"
    path.unlink()
    for command in ("rotate", "generate", "merge"):
        done = run("keys", command)
        assert f"or give the key up: verifier keys revoke --kid {first[:8]} --reason '...'" in done.err
    assert run("keys", "revoke", "--kid", first[:8], "--reason", "lost", "--replace").status == 0
    assert list(states().values()) == ["current"]
    assert rules(run, NOW) == {"private-kept"}


def test_a_rotation_that_died_after_its_line_is_complete_also_while_the_history_is_damaged(run, first, monkeypatch):
    remove = atomic.remove
    monkeypatch.setattr(atomic, "remove", lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert run("keys", "rotate").status != 0
    monkeypatch.setattr(atomic, "remove", remove)
    log, files = HISTORY.read_bytes(), sorted(path.name for path in PUBLIC.iterdir())
    HISTORY.write_bytes(b"<<<<<<< HEAD\n" + log + b"=======\n")
    done = run("keys", "rotate", now=NOW + 9)
    assert (done.status, sorted(path.name for path in PUBLIC.iterdir())) == (3, files)
    assert done.err.startswith(
        "verifier: warning: finished the rotate of 2027-01-15 08:00:00 UTC, which was interrupted\n"
    )
    HISTORY.write_bytes(log)
    assert rules(run, NOW + 9) == set()
