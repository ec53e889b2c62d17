"""Reads that nothing can block: regular files of bounded size, and a cause in words for everything else."""

import errno
import os
import socket
import threading

import pytest

from verifier.storage import snapshot
from verifier.storage.snapshot import read_file


def refused(path, max_bytes=100):
    with pytest.raises(OSError, match=".") as caught:
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
