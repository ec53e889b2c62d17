"""Snapshots of a folder and of a Kubernetes volume: all files from one moment; and files whose changes never arrive."""

import errno
import itertools
import os
import re
import threading

import pytest

from tests.support.kubelet import KubeletVolume
from verifier.storage import atomic, snapshot


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


@pytest.fixture
def volume(tmp_path):
    return KubeletVolume(tmp_path / "volume")


def payload(version):
    """Files that tell which version they are of; now and then their number changes too."""
    return {f"{n}.json": b"%d" % version for n in range(4 + version // 10 % 2)} | {"README.md": b"%d" % version}


def read_while_it_swaps(volume, folder, prefix=""):
    """What was read of a folder, and what went wrong, while its volume was swapped 200 times and more."""
    reads, failures, stop = [], [], threading.Event()

    def swap():
        try:
            for version in itertools.count(1):
                volume.write({prefix + name: content for name, content in payload(version).items()})
                if stop.is_set():
                    break
        except OSError as exc:
            failures.append(exc)

    volume.write({prefix + name: content for name, content in payload(0).items()})
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        while thread.is_alive() and (len(reads) < 30 or int(reads[-1]["0.json"]) < 200):
            reads.append(snapshot.snapshot(folder))
    finally:
        stop.set()
        thread.join()
    return reads, failures


def is_whole(content):
    """Whether this is all of one version and nothing of another."""
    version = int(content["0.json"])
    return content == {name: data for name, data in payload(version).items() if name.endswith(".json")}


# --- snapshots of a plain folder


def test_a_snapshot_holds_the_json_files_of_a_folder_by_name(folder):
    (folder / "b.json").write_bytes(b"2")
    (folder / "a.json").write_bytes(b"\xff")
    assert list(snapshot.snapshot(folder).items()) == [("a.json", b"\xff"), ("b.json", b"2")]


@pytest.mark.parametrize("name", [".a.json", ".a.json.tmp", "..data", "README.md", "a.json~", "a.JSON", "json"])
def test_a_hidden_file_or_one_of_another_kind_is_left_out(folder, name):
    (folder / "a.json").write_bytes(b"1")
    (folder / name).write_bytes(b"2")
    assert snapshot.snapshot(folder) == {"a.json": b"1"}


def test_an_empty_folder_gives_an_empty_snapshot(folder):
    assert snapshot.snapshot(folder) == {}


def test_a_file_that_cannot_be_read_is_there_with_the_reason(folder):
    (folder / "a.json").write_bytes(b"1")
    (folder / "directory.json").mkdir()
    (folder / "dangling.json").symlink_to("nowhere")
    (folder / "loop.json").symlink_to("loop.json")
    assert snapshot.snapshot(folder) == {
        "a.json": b"1",
        "dangling.json": os.strerror(errno.ENOENT),
        "directory.json": os.strerror(errno.EISDIR),
        "loop.json": os.strerror(errno.ELOOP),
    }


def test_an_error_without_words_is_named_by_its_kind(folder, monkeypatch):
    (folder / "a.json").write_bytes(b"1")

    def fail(*_):
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr("os.read", fail)
        found = snapshot.snapshot(folder)
    assert found == {"a.json": "TimeoutError"}


def test_a_file_that_comes_in_pieces_is_read_to_its_end(folder, monkeypatch):
    (folder / "a.json").write_bytes(b"0123456789")
    read = os.read
    monkeypatch.setattr("os.read", lambda descriptor, _: read(descriptor, 3))
    assert snapshot.snapshot(folder) == {"a.json": b"0123456789"}


def test_a_folder_that_is_missing_or_a_file_is_an_error(folder):
    assert snapshot.snapshot(folder) == {}
    with pytest.raises(FileNotFoundError):
        snapshot.snapshot(folder / "missing")
    (folder / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        snapshot.snapshot(folder / "file")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda f: (f / "b.json").unlink(), {"a.json": b"1"}, id="removed"),
        pytest.param(
            lambda f: (f / "c.json").write_bytes(b"1"), {"a.json": b"1", "b.json": b"1", "c.json": b"1"}, id="added"
        ),
        pytest.param(lambda f: (f / "b.json").rename(f / "c.json"), {"a.json": b"1", "c.json": b"1"}, id="renamed"),
        pytest.param(
            lambda f: atomic.write_atomic(f / "b.json", b"2"), {"a.json": b"1", "b.json": b"2"}, id="replaced"
        ),
    ],
)
def test_a_file_that_changes_while_the_folder_is_read_is_seen_as_it_is_afterwards(
    folder, monkeypatch, change, expected
):
    for name in ("a.json", "b.json"):
        (folder / name).write_bytes(b"1")
    read, once = snapshot._read, [change]

    def read_and_change(*arguments):
        content = read(*arguments)
        if once:
            once.pop()(folder)
        return content

    monkeypatch.setattr(snapshot, "_read", read_and_change)
    assert snapshot.snapshot(folder) == expected


def test_a_file_replaced_again_and_again_is_always_read_whole(folder):
    old, new = b"1" * 5000, b"2" * 7000
    atomic.write_atomic(folder / "a.json", old)

    def replace():
        for content in itertools.islice(itertools.cycle((new, old)), 150):
            atomic.write_atomic(folder / "a.json", content)

    thread = threading.Thread(target=replace)
    thread.start()
    reads = [snapshot.snapshot(folder)]
    while thread.is_alive():
        reads.append(snapshot.snapshot(folder))
    thread.join()
    assert all(read in ({"a.json": old}, {"a.json": new}) for read in reads)


# --- snapshots of a Kubernetes volume


def test_a_volume_is_read_like_a_folder(volume):
    volume.write({"a.json": b"1", "b.json": b"1", "README.md": b"1"})
    assert sorted(os.listdir(volume.folder))[1:] == ["..data", "README.md", "a.json", "b.json"]
    assert snapshot.snapshot(volume.folder) == {"a.json": b"1", "b.json": b"1"}
    volume.write({"a.json": b"2"})
    assert sorted(os.listdir(volume.folder))[1:] == ["..data", "a.json"]
    assert snapshot.snapshot(volume.folder) == {"a.json": b"2"}


def test_hundreds_of_swaps_in_a_row_never_fail_a_read_nor_mix_two_versions(volume):
    reads, failures = read_while_it_swaps(volume, volume.folder)
    assert failures == []
    assert all(map(is_whole, reads))
    assert len({read["0.json"] for read in reads}) > 1  # it did swap while it was read


def test_a_folder_inside_a_volume_is_read_from_one_moment_too(volume):
    reads, failures = read_while_it_swaps(volume, volume.folder / "public", "public/")
    assert os.readlink(volume.folder / "public") == "..data/public"
    assert failures == []
    assert all(map(is_whole, reads))
    assert len({read["0.json"] for read in reads}) > 1


@pytest.mark.parametrize("target", ["..2026_01_02_03_04_05.1", "..data"], ids=["dangling", "loop"])
def test_a_volume_without_content_is_an_error_and_not_an_empty_folder(volume, target):
    volume.write({})
    assert snapshot.snapshot(volume.folder) == {}
    (volume.folder / "..data").unlink()
    (volume.folder / "..data").symlink_to(target)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ELOOP if target == "..data" else errno.ENOENT))):
        snapshot.snapshot(volume.folder)


@pytest.mark.parametrize("step", ["_version", "_names", "_read"])
def test_a_swap_at_any_step_gives_the_new_version(volume, monkeypatch, step):
    volume.write(payload(1))
    do, once = getattr(snapshot, step), [2]

    def do_and_swap(*arguments):
        result = do(*arguments)
        if once:
            volume.write(payload(once.pop()))
        return result

    monkeypatch.setattr(snapshot, step, do_and_swap)
    assert snapshot.snapshot(volume.folder) == {f"{n}.json": b"2" for n in range(4)}


def test_a_partially_removed_version_is_not_taken_for_complete(volume, monkeypatch):
    volume.write(payload(1))
    find, once = snapshot._version, [2]

    def find_and_swap(folder):
        version = find(folder)
        if once:
            monkeypatch.setattr("shutil.rmtree", lambda old: os.remove(old / "0.json"))
            volume.write(payload(once.pop()))
        return version

    monkeypatch.setattr(snapshot, "_version", find_and_swap)
    assert snapshot.snapshot(volume.folder) == {f"{n}.json": b"2" for n in range(4)}


def test_a_volume_that_changes_under_every_read_is_an_error(volume, monkeypatch):
    volume.write(payload(1))
    read, versions = snapshot._read, itertools.count(2)

    def read_and_swap(*arguments):
        volume.write({"0.json": b"%d" % next(versions)})
        return read(*arguments)

    monkeypatch.setattr(snapshot, "_read", read_and_swap)
    with pytest.raises(OSError, match=f"^{re.escape(str(volume.folder))} changes faster than it can be read$"):
        snapshot.snapshot(volume.folder)


# --- mounts


MOUNTS = """\
21 1 254:0 / / rw,relatime - overlay overlay rw
22 21 0:40 / /proc rw - proc proc rw
30 21 254:0 {root} {place} ro,relatime - ext4 /dev/vda rw
"""
VOLUME = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/keys"


@pytest.mark.parametrize(
    ("root", "place", "alone"),
    [
        pytest.param(VOLUME, "{keys}", False, id="a-volume"),
        pytest.param(f"{VOLUME}/..2026_03_01/a.json", "{keys}/a.json", True, id="subpath-file"),
        pytest.param("/srv/a.json//deleted", "{keys}/a.json", True, id="docker-file-replaced-since"),
        pytest.param(f"{VOLUME}/..2026_03_01/public", "{keys}", True, id="subpath-folder"),
        pytest.param(f"{VOLUME}/..2026_03_01", "{parent}", True, id="subpath-of-the-folder-around"),
        pytest.param("/srv/keys", "{parent}", False, id="the-folder-around"),
        pytest.param(f"{VOLUME}/..2026_03_01/x", "{keys}-other", False, id="beside"),
        pytest.param(f"{VOLUME}/..2026_03_01/x", "{keys}/deeper/x", False, id="deeper"),
    ],
)
def test_files_whose_changes_never_arrive_are_found(folder, tmp_path, root, place, alone):
    place = place.format(keys=folder, parent=tmp_path)
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(root=root, place=place))
    assert snapshot.bind_mounted_files(folder, table) == ([place] if alone else [])


def test_a_single_file_that_is_a_mount_is_found_under_any_name(tmp_path):
    path, table = tmp_path / "the secret \\ü", tmp_path / "mountinfo"
    path.touch()
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040")
    table.write_text(MOUNTS.format(root="/secret", place=escaped))
    assert snapshot.bind_mounted_files(path, table) == [str(path)]
    assert snapshot.bind_mounted_files(tmp_path / "other", table) == []


def test_without_a_table_of_mounts_nothing_is_found(tmp_path):
    assert snapshot.bind_mounted_files(tmp_path, tmp_path / "none") == []
    assert snapshot.bind_mounted_files(tmp_path) == []
