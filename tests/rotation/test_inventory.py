"""What the audit reads: bounds, files that cannot be read, and a repository without a commit."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.core.applications import Applications, Secret
from verifier.errors import ConfigError
from verifier.rotation import audit, inventory, report
from verifier.rotation.inventory import File, Inventory, public_members
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.secret_changes import add_secret, dump
from verifier.rotation.witness import Commit


def test_a_history_that_is_no_file_is_an_error(past, tmp_path):
    past.generate("ES256", NOW)
    (tmp_path / "keys" / "history.jsonl").unlink()
    os.mkfifo(tmp_path / "keys" / "history.jsonl")
    with pytest.raises(ConfigError, match=r"(?m)history\.jsonl: cannot be read \(is a pipe, not a regular file\)$"):
        past.state()


def test_a_folder_with_too_many_files_is_an_error(past, monkeypatch):
    past.generate("ES256", NOW)
    monkeypatch.setattr(inventory, "MAX_FILES", 2)
    with pytest.raises(ConfigError, match=r"(?m)has more than 2 files and folders$"):
        past.state()


def test_a_link_to_nothing_and_a_large_file_are_no_keys(past, tmp_path):
    past.generate("ES256", NOW)
    (tmp_path / "keys" / "link").symlink_to("nowhere")
    (tmp_path / "keys" / "large").write_bytes(b"x" * 70_000)
    assert audit.findings(past.state()) == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[1]", b"1", None])
def test_a_file_that_is_no_json_object_has_no_members(content):
    assert public_members(File(Path("a.json"), "public/a.json", 0o644, False, True, content)) == {}


def test_the_members_of_a_public_file_are_read():
    assert public_members(File(Path("a.json"), "public/a.json", 0o644, False, True, b'{"kid": "a"}')) == {"kid": "a"}


def test_a_repository_without_a_commit_has_nothing_committed(past, tmp_path):
    past.generate("ES256", NOW)
    subprocess.run(["git", "init", "-q", tmp_path / "keys"], check=True)
    state = past.state()
    assert (state.witness.commit, state.witness.clean, state.witness.lines) == ("", False, (None,))
    assert [finding.rule for finding in audit.findings(state)] == ["uncommitted"]


def test_a_bad_signature_is_found_where_none_is_required(past):
    past.generate("ES256", NOW)
    state = past.state()
    bad = Commit("a" * 40, "B", "2027-01-15T08:00:00Z", "Ann <ann@x>", "")
    state = replace(state, witness=replace(state.witness, present=True, lines=(bad,)))
    text = "line 1 was added by commit aaaaaaaaaaaa with a bad signature"
    assert [(f.rule, f.found) for f in audit.findings(state)] == [("signature", text)]


def test_the_report_lists_the_secrets_of_applications(past, tmp_path):
    past.generate("ES256", NOW)
    path: Path = tmp_path / "applications.json"
    path.write_bytes(dump(add_secret(Applications(), "app", Secret.of("short"))))
    state = Inventory.read(
        tmp_path / "keys", now=NOW, window=OverlapPolicy(), applications=path, last_use={("secret", "app 1"): 1.5}
    )
    (row,) = report.build_report(state)["applications"]
    (secret,) = row["secrets"]
    assert (row["id"], secret["slot"], secret["weakness"], secret["last_use"], secret["set_at"]) == (
        "app", 1, "shorter than 16 characters", 1.5, None,
    )  # fmt: skip
