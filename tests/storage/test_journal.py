"""A journal: read with suspicion, applied completely, cleaned up."""

import errno
import json
import os
from dataclasses import asdict, replace

import pytest

from verifier.errors import UnsafeOperationError
from verifier.storage import atomic, journal
from verifier.storage.journal import Applied, Directory, FileChange, Record


@pytest.fixture
def directory(tmp_path):
    for name in ("public", "private"):
        (tmp_path / name).mkdir()
    return Directory(tmp_path)


@pytest.fixture
def record(directory):
    """Changes a file, creates another, removes a third and a private key, and appends a line."""
    (directory.folder / "public" / "a.json").write_text("old")
    (directory.folder / "public" / "c.json").write_text("gone")
    (directory.folder / "private" / "c.pem").write_text("private")
    changes = (
        FileChange("public/a.json", "old", "new"),
        FileChange("private/b.pem", None, "made", 0o600),
        FileChange("public/c.json", "gone", None),
    )
    return Record(
        command="rotate",
        at=1,
        until=2,
        revokes=False,
        overlap_s=3,
        changes=changes,
        removals=("private/c.pem",),
        history_before=journal.digest(b""),
        lines="line\n",
        others=directory.others(changes),
    )


def files(directory):
    return {str(p.relative_to(directory.folder)): p.read_text() for p in directory.folder.rglob("*") if p.is_file()}


DONE = {"public/a.json": "new", "private/b.pem": "made", "history.jsonl": "line\n"}


def test_a_change_is_committed_completely_and_leaves_no_journal(directory, record):
    checks = []
    directory.commit(record, lambda: checks.append(directory.journal.exists()))
    assert files(directory) == DONE
    assert checks == [False, True, True, True, True]
    assert (directory.folder / "private" / "b.pem").stat().st_mode & 0o777 == 0o600
    assert [directory.applied(change) for change in record.changes] == [Applied.YES] * 3
    assert directory.history_applied(record) is Applied.YES


def test_a_file_that_becomes_what_was_planned_leaves_nothing_staged(directory, record):
    directory.commit(
        record, lambda: directory.journal.exists() and (directory.folder / "public/a.json").write_text("new")
    )
    assert files(directory) == DONE


def test_a_journal_is_read_as_it_was_written(directory, record):
    assert journal.read(directory.journal) is None
    atomic.write_atomic(directory.journal, json.dumps(asdict(record)).encode())
    assert journal.read(directory.journal) == record


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"changes": [{}], "removals": []}', b'{"changes": [], "removals": [], "x": 1}', b"\xff"],
)
def test_a_file_that_is_no_journal_is_refused(directory, content):
    directory.journal.write_bytes(content)
    with pytest.raises(UnsafeOperationError) as caught:
        journal.read(directory.journal)
    assert str(caught.value) == f"{directory.journal}: is not a journal; an interrupted change cannot be finished"
    hint = f"compare keys/public and the history with version control, then remove {directory.journal}"
    assert caught.value.hint == hint


def test_a_journal_that_cannot_be_read_is_refused_with_the_cause(directory):
    directory.journal.mkdir()
    with pytest.raises(UnsafeOperationError) as caught:
        journal.read(directory.journal)
    assert str(caught.value) == f"{directory.journal}: Is a directory; an interrupted change cannot be finished"


@pytest.mark.parametrize("whole", [None, "merged\n"])
def test_a_change_is_finished_from_its_journal_and_a_second_time_changes_nothing(directory, record, whole):
    record = replace(record, whole=whole, lines="" if whole else record.lines)
    assert directory.history_applied(record) is Applied.NO
    directory.finish(record)
    assert directory.history_applied(record) is Applied.YES
    assert files(directory) == DONE | {"history.jsonl": whole or "line\n"}
    directory.finish(record)
    assert files(directory) == DONE | {"history.jsonl": whole or "line\n"}


def test_a_change_that_ceases_to_be_valid_before_its_journal_leaves_nothing(directory, record):
    before = files(directory)

    def check():
        raise UnsafeOperationError("late")

    with pytest.raises(UnsafeOperationError, match=r"(?m)^late$"):
        directory.commit(record, check)
    assert files(directory) == before


def test_a_change_without_lines_leaves_the_history_alone(directory, record):
    record = replace(record, lines="")
    directory.commit(record, lambda: None)
    assert not directory.history.exists()
    directory.history.write_text("other\n")
    assert directory.history_applied(record) is Applied.OTHER


def test_another_file_that_cannot_be_read_has_a_fingerprint_too(directory):
    empty = directory.others([])
    path = directory.folder / "public" / "d.json"
    path.mkdir()
    unreadable = directory.others([])
    path.rmdir()
    path.write_text("d")
    assert len({empty, unreadable, directory.others([])}) == 3
    assert directory.others([FileChange("public/d.json", "d", None)]) == empty


def test_staged_files_of_a_killed_command_are_removed(directory, record):
    for change in record.changes[:2]:
        atomic.stage(directory.folder / change.path, b"x")
    atomic.stage(directory.history, b"x")
    atomic.stage(directory.journal, b"x")
    assert len([*directory.folder.rglob("*.tmp")]) == 4
    directory.clean()
    assert [*directory.folder.rglob("*.tmp")] == []


def test_a_full_disk_is_noticed_while_nothing_has_changed(directory, record, monkeypatch):
    before = files(directory)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        directory.commit(record, lambda: None)
    assert files(directory) == before
