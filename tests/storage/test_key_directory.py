"""What a process remembers of the key directory: revocations for good, and files that have not changed."""

import errno
import json
import os

import pytest

from tests.conftest import NOW
from verifier.core.keyring import KeyState
from verifier.storage import key_directory, snapshot
from verifier.storage.key_directory import KeyDirectory


@pytest.fixture
def directory(keys):
    directory = KeyDirectory(keys / "public")
    directory.refresh()
    return directory


@pytest.fixture
def path(keys, pairs):
    return keys / "public" / f"{pairs['ES256'].kid}.json"


@pytest.fixture
def original(path):
    return path.read_bytes()


def revoke(path, reason="stolen"):
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"revoked": {"revoked_at": NOW, "reason": reason}}))


def state_of(directory, path):
    key = directory.keyring.find(path.stem)
    return key and directory.keyring.state(key, NOW)


def test_a_revocation_holds_when_the_old_file_comes_back(directory, path, original):
    revoke(path)
    directory.refresh()
    digest = directory.keyring.digest
    path.write_bytes(original)
    assert directory.refresh()
    assert state_of(directory, path) == KeyState.REVOKED
    assert directory.keyring.find(path.stem).reason == "stolen"
    assert (directory.undone_revocations, directory.keyring.digest) == ((path.stem,), digest)
    assert directory.problems == ()


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_a_revocation_holds_when_the_file_goes_and_comes_back(directory, path, original, reads):
    revoke(path)
    directory.refresh()
    path.unlink()
    for _ in range(reads):
        directory.refresh()
    assert state_of(directory, path) is None or not reads
    assert directory.undone_revocations == ()
    path.write_bytes(original)
    directory.refresh()
    assert state_of(directory, path) == KeyState.REVOKED
    assert directory.undone_revocations == (path.stem,)


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(lambda folder, path: path.write_bytes(b"{"), id="the-file-is-invalid"),
        pytest.param(lambda folder, path: folder.rename(folder.with_name("moved")), id="the-folder-is-gone"),
    ],
)
def test_a_revocation_holds_through_a_read_that_fails(directory, keys, path, original, disturb):
    revoke(path)
    directory.refresh()
    disturb(keys / "public", path)
    directory.refresh()
    assert directory.problems
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(original)
    directory.refresh()
    assert state_of(directory, path) == KeyState.REVOKED


def test_a_revocation_that_is_restored_is_no_longer_undone(directory, path, original):
    revoke(path)
    directory.refresh()
    path.write_bytes(original)
    directory.refresh()
    revoke(path, "stolen, again")
    directory.refresh()
    assert directory.undone_revocations == ()
    assert directory.keyring.find(path.stem).reason == "stolen, again"


def test_only_a_new_process_forgets(directory, keys, path, original):
    revoke(path)
    directory.refresh()
    path.write_bytes(original)
    assert state_of(KeyDirectory(keys / "public"), path) is None
    fresh = KeyDirectory(keys / "public")
    fresh.refresh()
    assert state_of(fresh, path) == KeyState.CURRENT


def test_beyond_the_bound_of_the_memory_no_key_is_trusted(directory, path, original, monkeypatch):
    monkeypatch.setattr(key_directory, "MAX_REVOKED", 0)
    assert len(directory.keyring.keys) == 3
    revoke(path)
    directory.refresh()
    assert (directory.keyring.keys, directory.problems) == (
        {},
        (f"{path.parent}: more than 10000 keys have been revoked since the start; no key is trusted until a restart",),
    )
    path.write_bytes(original)
    directory.refresh()
    assert directory.keyring.keys == {}


def test_only_a_changed_file_is_parsed_again(directory, keys, path, monkeypatch):
    parsed = []

    def parse(name, data, parse_public_key=key_directory.parse_public_key):
        parsed.append(name)
        return parse_public_key(name, data)

    monkeypatch.setattr(key_directory, "parse_public_key", parse)
    (keys / "public" / "bad.json").write_bytes(b"{")
    revoke(path)
    assert directory.refresh()
    assert sorted(parsed) == sorted([path.name, "bad.json"])
    parsed.clear()
    path.unlink()
    assert directory.refresh()
    assert parsed == []
    assert directory.problems == (f"{keys / 'public'}/bad.json: is not valid JSON",)
    assert len(directory.keyring.keys) == 2


@pytest.mark.parametrize("full", [True, False])
def test_a_full_read_takes_nothing_from_the_cache(directory, path, monkeypatch, full):
    monkeypatch.setattr(snapshot, "SETTLED_S", -1e9)
    directory.refresh()
    monkeypatch.setattr(snapshot, "read_file", lambda *_: b"{}")
    assert directory.refresh(full=full) == full


def test_every_sixtieth_read_is_full(directory, monkeypatch):
    monkeypatch.setattr(snapshot, "SETTLED_S", -1e9)
    directory.refresh()
    monkeypatch.setattr(snapshot, "read_file", lambda *_: b"{}")
    reads = 1
    while not directory.refresh():
        reads += 1
    assert reads <= key_directory.READS_PER_FULL_READ


def test_a_read_without_descriptors_says_why_nothing_was_learned(directory, monkeypatch):
    def fail(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr("os.listdir", fail)
        assert not directory.refresh()
        assert directory.unread == os.strerror(errno.EMFILE)
        assert len(directory.keyring.keys) == 3
    assert not directory.refresh()
    assert directory.unread == ""
