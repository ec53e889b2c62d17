"""Reads that nothing can block: regular files of bounded size, and a cause in words for everything else."""

import errno
import os
import socket
import threading

import pytest

from verifier.storage import snapshot
from verifier.storage.snapshot import read_file


def refused(path, max_bytes=100):
    with pytest.raises(OSError, match=r".") as caught:
        read_file(path, max_bytes)
    assert caught.value.filename == os.fspath(path)
    return caught.value.errno, caught.value.strerror


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_regular_file_within_the_limit_is_read_whole(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_file(path, 100) == read_file(str(path), 100) == b"x" * size


def test_a_file_over_the_limit_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 101)
    assert refused(path) == (errno.EFBIG, "is larger than 100 bytes")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 100) == b"x"


def test_what_is_missing_or_forbidden_keeps_the_words_of_the_system(tmp_path):
    assert refused(tmp_path / "file") == (errno.ENOENT, "No such file or directory")


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == (errno.EINVAL, "is a pipe, not a regular file")


def test_a_pipe_of_the_shell_is_refused_and_not_consumed():
    reading, writing = os.pipe()
    os.write(writing, b"secret")
    try:
        assert refused(f"/dev/fd/{reading}") == (errno.EINVAL, "is a pipe, not a regular file")
        assert os.read(reading, 100) == b"secret"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(tmp_path, device):
    (tmp_path / "link").symlink_to(device)
    assert refused(tmp_path / "link") == (errno.EINVAL, "is a device, not a regular file")


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # because the path of a socket is short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
        assert refused("socket") == (errno.EINVAL, "is a socket, not a regular file")


def test_a_directory_is_refused(tmp_path):
    assert refused(tmp_path) == (errno.EISDIR, os.strerror(errno.EISDIR))


def test_a_kind_of_file_that_is_not_listed_is_special(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_KINDS", {})
    assert refused("/dev/null") == (errno.EINVAL, "is special, not a regular file")


def test_a_file_whose_size_the_system_does_not_know_is_read_to_its_end():
    assert read_file("/proc/self/mountinfo", 1_000_000).endswith(b"\n")


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def read(descriptor, size, read=os.read):
        with path.open("ab") as file:
            file.write(b"x" * 10)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    assert refused(path) == (errno.EFBIG, "is larger than 100 bytes")


def test_a_file_that_shrinks_while_it_is_read_ends_where_it_ends(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 50)

    def read(descriptor, size, read=os.read):
        path.write_bytes(b"y")
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    assert read_file(path, 100) == b"y"


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 101)
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path / "file", tmp_path, "/dev/zero"):
        refused(path)
    read_file(tmp_path / "file", 101)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["pipe", "endless", "large", "directory"])
def test_a_folder_names_what_cannot_be_read_beside_what_can(tmp_path, kind):
    path = tmp_path / "bad.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.mkdir()
    (tmp_path / "good.json").write_bytes(b"{}")
    found = []
    reading = threading.Thread(target=lambda: found.append(snapshot.snapshot(tmp_path)), daemon=True)
    reading.start()
    reading.join(5)
    says = {
        "pipe": "is a pipe, not a regular file",
        "endless": "is a device, not a regular file",
        "large": "is larger than 65536 bytes",
        "directory": os.strerror(errno.EISDIR),
    }
    assert found == [{"bad.json": says[kind], "good.json": b"{}"}]


# --- the cache


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were opened since the last call."""
    names = []

    def read(path, max_bytes, read_file=read_file):
        names.append(os.path.basename(path))
        return read_file(path, max_bytes)

    monkeypatch.setattr(snapshot, "read_file", read)

    def opened():
        found = names[:]
        names.clear()
        return found

    return opened


@pytest.fixture
def settled(monkeypatch):
    """Every change counts as long ago: the time of a change of the inode cannot be set."""
    monkeypatch.setattr(snapshot, "SETTLED_S", -1e9)


def test_a_file_is_opened_again_only_when_it_has_changed(tmp_path, opened, settled):
    for name in "abc":
        (tmp_path / f"{name}.json").write_bytes(name.encode())
    cache = snapshot.FileCache()
    before = snapshot.snapshot(tmp_path, cache)
    assert opened() == ["a.json", "b.json", "c.json"]
    assert snapshot.snapshot(tmp_path, cache) == before
    assert opened() == []
    (tmp_path / "b.json").write_bytes(b"changed")
    assert snapshot.snapshot(tmp_path, cache) == before | {"b.json": b"changed"}
    assert opened() == ["b.json"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_bytes(b"2"), id="written-in-place"),
        pytest.param(lambda path: (path.unlink(), path.write_bytes(b"2")), id="replaced"),
        pytest.param(
            lambda path: (path.write_bytes(b"2"), os.utime(path, (0, 0))), id="with-the-old-modification-time"
        ),
    ],
)
def test_a_change_of_one_byte_is_seen_whatever_its_modification_time(tmp_path, settled, change):
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    os.utime(path, (0, 0))
    cache = snapshot.FileCache()
    assert snapshot.snapshot(tmp_path, cache) == {"a.json": b"1"}
    changed_at = path.stat().st_ctime_ns
    while True:  # the clock of the file system ticks every 1 to 10 ms
        change(path)
        if path.stat().st_ctime_ns != changed_at:
            break
    assert snapshot.snapshot(tmp_path, cache) == {"a.json": b"2"}


def test_a_file_that_changed_just_now_is_not_taken_from_the_cache(tmp_path, opened):
    (tmp_path / "a.json").write_bytes(b"1")
    cache = snapshot.FileCache()
    snapshot.snapshot(tmp_path, cache)
    snapshot.snapshot(tmp_path, cache)
    assert opened() == ["a.json", "a.json"]


def test_a_file_that_becomes_unreadable_is_not_taken_from_the_cache(tmp_path, settled):
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    cache = snapshot.FileCache()
    snapshot.snapshot(tmp_path, cache)
    path.unlink()
    path.mkdir()
    assert snapshot.snapshot(tmp_path, cache) == {"a.json": os.strerror(errno.EISDIR)}


def test_the_cache_forgets_files_that_were_removed(tmp_path, opened, settled):
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    cache = snapshot.FileCache()
    snapshot.snapshot(tmp_path, cache)
    path.rename(tmp_path / "b.json")
    snapshot.snapshot(tmp_path, cache)
    assert cache._files.keys() == {str(tmp_path / "b.json")}


@pytest.mark.parametrize(
    ("limit", "says"), [("MAX_FILES", "holds more than 2 files"), ("MAX_FOLDER_BYTES", "holds more than 2 bytes")]
)
def test_a_folder_that_holds_too_much_is_an_error(tmp_path, monkeypatch, limit, says):
    monkeypatch.setattr(snapshot, limit, 2)
    for name in "ab":
        (tmp_path / f"{name}.json").write_bytes(b"1")
    assert len(snapshot.snapshot(tmp_path)) == 2
    (tmp_path / "c.json").write_bytes(b"1")
    with pytest.raises(OSError, match=says) as caught:
        snapshot.snapshot(tmp_path)
    assert caught.value.errno == errno.EFBIG


def test_a_long_list_of_files_is_read_in_pieces(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    for number in range(70):
        (tmp_path / f"{number}.json").write_bytes(b"1")
    assert len(snapshot.snapshot(tmp_path)) == 70
    assert pauses == [0.001, 0.001]
