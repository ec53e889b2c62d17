"""Files that other processes change meanwhile: reads from one moment, writes whole or not at all."""

import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from verifier.errors import ConfigError, UnsafeOperationError
from verifier.storage import atomic, snapshot


class KubeletVolume:
    """A ConfigMap volume as kubelet's AtomicWriter keeps it (kubernetes/pkg/volume/util/atomic_writer.go)."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder

    def write(self, payload):
        data = self.folder / "..data"
        old = self.folder / os.readlink(data) if data.is_symlink() else None
        stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        new = tempfile.mkdtemp(prefix=stamp, dir=self.folder)
        os.chmod(new, 0o755)  # noqa: S103 - as kubelet does
        for name, content in payload.items():
            path = os.path.join(new, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        visible = {name.partition("/")[0] for name in payload}
        for name in visible:
            if not os.path.lexists(self.folder / name):
                os.symlink(f"..data/{name}", self.folder / name)
        os.symlink(os.path.basename(new), self.folder / "..data_tmp")
        os.rename(self.folder / "..data_tmp", data)
        if old is not None:
            for name in set(os.listdir(old)) - visible:
                os.remove(self.folder / name)
            shutil.rmtree(old)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


@pytest.fixture
def volume(tmp_path):
    return KubeletVolume(tmp_path / "volume")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask-000", "umask-022", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


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


# --- writing


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
@pytest.mark.usefixtures("umask")
def test_a_written_file_has_exactly_the_mode_it_was_given(folder, mode):
    atomic.write_atomic(folder / "a.json", b"1", mode)
    atomic.write_new(folder / "b.pem", b"2", mode)
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("a.json", "b.pem")] == [mode, mode]


@pytest.mark.usefixtures("umask")
def test_a_file_is_readable_for_all_by_default(folder):
    atomic.write_atomic(folder / "a.json", b"1")
    assert stat.S_IMODE((folder / "a.json").stat().st_mode) == 0o644


def test_write_atomic_replaces_content_and_mode(folder):
    atomic.write_atomic(folder / "a.json", b"old", 0o600)
    atomic.write_atomic(folder / "a.json", b"new", 0o644)
    assert (folder / "a.json").read_bytes() == b"new"
    assert stat.S_IMODE((folder / "a.json").stat().st_mode) == 0o644
    assert os.listdir(folder) == ["a.json"]


def test_write_atomic_replaces_the_file_that_a_link_leads_to(folder, tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "between").symlink_to("target")
    (folder / "a.json").symlink_to(tmp_path / "between")
    atomic.write_atomic(folder / "a.json", b"new")
    assert ((folder / "a.json").is_symlink(), (tmp_path / "target").read_bytes()) == (True, b"new")
    assert sorted(os.listdir(tmp_path)) == ["between", "keys", "target"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_regular_file_is_not_replaced(folder, kind):
    path = folder / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match=r"/a\.json: (is not a regular file|cannot be read \()"):
        atomic.write_atomic(path, b"new")
    assert path.lstat() == before
    assert os.listdir(folder) == ["a.json"]


def test_removing_a_link_removes_what_it_leads_to(folder, tmp_path):
    (tmp_path / "target").write_bytes(b"private")
    (folder / "a.pem").symlink_to(tmp_path / "target")
    atomic.remove(folder / "a.pem")
    assert (os.listdir(folder), (tmp_path / "target").exists()) == ([], False)


@pytest.mark.usefixtures("umask")
def test_a_folder_has_exactly_the_mode_it_was_given_and_its_parents_0755(tmp_path):
    atomic.make_folder(tmp_path / "a" / "b" / "c", 0o700)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]
    (tmp_path / "a").chmod(0o750)
    atomic.make_folder(tmp_path / "a", 0o700)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError) as caught:
        atomic.make_folder(tmp_path / "a", 0o755)
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("leftover", [b"", b"half of a longer content"], ids=["empty", "longer"])
def test_what_a_stopped_machine_left_behind_is_written_over(folder, leftover):
    (folder / ".a.json.tmp").write_bytes(leftover)
    atomic.write_atomic(folder / "a.json", b"new")
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == {"a.json": b"new"}


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(folder, tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (folder / ".a.json.tmp").symlink_to(tmp_path / "target")
    atomic.write_atomic(folder / "a.json", b"new")
    assert ((folder / "a.json").read_bytes(), (tmp_path / "target").read_bytes()) == (b"new", b"old")
    assert not (folder / "a.json").is_symlink()


def fail_with_a_full_disk(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_midway_keeps_the_old_content(folder, monkeypatch, call):
    atomic.write_atomic(folder / "a.json", b"old")
    if call == "fsync":
        monkeypatch.setattr("os.fsync", fail_with_a_full_disk)
    else:
        monkeypatch.setattr("pathlib.Path.replace", lambda *_: fail_with_a_full_disk(0))
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        atomic.write_atomic(folder / "a.json", b"new")
    assert snapshot.snapshot(folder) == {"a.json": b"old"}


def test_a_write_that_fails_midway_leaves_nothing_behind(folder, monkeypatch):
    monkeypatch.setattr("os.fsync", fail_with_a_full_disk)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        atomic.write_new(folder / "a.pem", b"new", 0o600)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        atomic.write_atomic(folder / "a.json", b"new")
    assert os.listdir(folder) == []


def test_write_new_creates_a_file_and_never_touches_another(folder):
    atomic.write_new(folder / "a.pem", b"first", 0o600)
    before = (folder / "a.pem").stat()
    with pytest.raises(FileExistsError):
        atomic.write_new(folder / "a.pem", b"second", 0o644)
    assert (folder / "a.pem").read_bytes() == b"first"
    assert (folder / "a.pem").stat() == before


def test_write_new_does_not_follow_a_dangling_link(folder, tmp_path):
    (folder / "a.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        atomic.write_new(folder / "a.pem", b"first", 0o600)
    assert not (tmp_path / "elsewhere").exists()


def test_content_and_name_are_on_the_disk_when_a_write_returns(folder, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), sorted(os.listdir(folder))))

    monkeypatch.setattr("os.fsync", fsync)
    atomic.write_atomic(folder / "a.json", b"new")
    assert synced == [(False, [".a.json.tmp"]), (True, ["a.json"])]
    atomic.write_new(folder / "b.pem", b"new", 0o600)
    assert synced[2:] == [(False, ["a.json", "b.pem"]), (True, ["a.json", "b.pem"])]


def test_a_folder_is_not_opened_where_the_system_cannot(folder, monkeypatch):
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr("os.open", lambda *args: opened.append(args))
        patch.setattr("os.name", "nt")
        atomic.sync_folder(folder)
    assert opened == []


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


# --- the lock


def test_the_lock_names_its_last_holder_and_is_released(folder):
    path = folder / ".lock"
    for _ in range(2):
        with atomic.locked(path):
            assert path.read_text() == f"{os.getpid()}\n"
            with path.open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("note", "name", "way_out"), [("123\n", " 123", " (kill 123)"), ("", "", ""), ("not a number", "", "")]
)
def test_a_lock_that_another_process_holds_is_waited_for_and_then_refused(folder, monkeypatch, note, name, way_out):
    pauses = []
    monkeypatch.setattr(atomic, "LOCK_ATTEMPTS", 3)
    monkeypatch.setattr("time.sleep", pauses.append)
    path = folder / ".lock"
    path.write_text(note)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UnsafeOperationError) as caught, atomic.locked(path):
            pytest.fail("two processes hold the lock")
    assert str(caught.value) == f"{path}: another verifier process{name} holds the lock; nothing was changed"
    assert caught.value.hint == (
        f"try again when it has ended; a suspended process keeps the lock until it continues or is ended{way_out}"
    )
    assert (pauses, path.read_text()) == ([atomic.LOCK_PAUSE_S] * 2, note)


def test_a_lock_that_is_released_meanwhile_is_taken(folder, monkeypatch):
    path = folder / ".lock"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr("time.sleep", lambda pause: held.close())
        with atomic.locked(path):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_file_that_is_a_link_is_not_followed(folder):
    path = folder / ".lock"
    path.symlink_to(folder / "other")
    with pytest.raises(ConfigError) as caught, atomic.locked(path):
        pytest.fail("locked")
    says = os.strerror(errno.ELOOP)
    assert str(caught.value) == f"{path}: cannot be created ({says}); nothing was changed"
    assert not (folder / "other").exists()


def test_a_file_system_without_locks_is_reported(folder, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigError) as caught, atomic.locked(folder / ".lock"):
        pytest.fail("locked")
    says = os.strerror(errno.ENOLCK)
    assert str(caught.value) == f"{folder / '.lock'}: cannot be locked ({says}); nothing was changed"
    assert caught.value.hint == "keep the folder on a file system with locks (flock)"


def test_a_full_disk_does_not_prevent_the_lock(folder, monkeypatch):
    def ftruncate(descriptor, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.ftruncate", ftruncate)
    path = folder / ".lock"
    with atomic.locked(path), path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken", "disk")])
def test_an_interrupted_write_leaves_no_partial_file_and_keeps_its_cause(folder, monkeypatch, error):
    def fsync(descriptor):
        raise error

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(type(error)) as caught:
        atomic.write_new(folder / "a", b"content", 0o600)
    assert caught.value is error
    assert list(folder.iterdir()) == []


def test_a_folder_that_another_process_makes_meanwhile_is_used(tmp_path, monkeypatch):
    path, exists = tmp_path / "new" / "keys", Path.exists

    def made_right_after(self):
        found = exists(self)
        if not found:
            os.mkdir(self)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", made_right_after)
        atomic.make_folder(path, 0o700)
    assert path.is_dir()


def test_a_broken_link_is_not_a_folder(tmp_path):
    path = tmp_path / "keys"
    path.symlink_to(tmp_path / "none")
    with pytest.raises(NotADirectoryError):
        atomic.make_folder(path, 0o700)
