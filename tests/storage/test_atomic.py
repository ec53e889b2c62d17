"""Files that other processes read meanwhile: written whole or not at all, with one writer at a time."""

import errno
import fcntl
import os
import re
import stat
from pathlib import Path

import pytest

from verifier.errors import ConfigError, UnsafeOperationError
from verifier.storage import atomic, snapshot


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask-000", "umask-022", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


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


def test_removing_what_is_gone_is_no_error(folder):
    atomic.remove(folder / "a.pem")
    assert os.listdir(folder) == []


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
    assert (folder / "a.pem").stat() == before  # before the content is read, which changes st_atime
    assert (folder / "a.pem").read_bytes() == b"first"


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


# --- the lock


def test_the_lock_names_its_holder_and_is_released(folder):
    path = folder / ".lock"
    for _ in range(2):
        with atomic.locked(path):
            assert path.read_text() == f"{os.getpid()}\n"
            with path.open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("again", [True, False], ids=["made again", "gone"])
def test_a_lock_file_that_its_holder_removed_is_not_the_lock(folder, monkeypatch, again):
    path, acquire, removed = folder / ".lock", atomic._acquire, []

    def acquire_late(descriptor, path):
        acquire(descriptor, path)
        if not removed:
            removed.append(path.unlink())
            if again:
                path.touch()

    monkeypatch.setattr(atomic, "_acquire", acquire_late)
    with atomic.locked(path), path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (len(removed), list(folder.iterdir())) == (1, [])


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
    assert caught.value.hint == f"remove {path}"
    assert not (folder / "other").exists()


def test_a_lock_that_cannot_be_created_in_its_folder_is_reported(folder, monkeypatch):
    def denied(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ConfigError) as caught, atomic.locked(folder / ".lock"):
        pytest.fail("locked")
    assert caught.value.hint == f"make the folder {folder} writable"


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
    assert list(folder.iterdir()) == []


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


@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch, fault):
    def fsync(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "page.html"
    if fault == "no folder":
        path = tmp_path / "nowhere" / "page.html"
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as caught:
        atomic.write_atomic(path, b"content")
    assert caught.value.filename == str(path)
    assert caught.value.strerror == os.strerror(errno.ENOENT if fault == "no folder" else errno.ENOSPC)
