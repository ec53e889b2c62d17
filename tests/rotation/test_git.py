"""Queries of git are bounded, and what fails is an error with a cause."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verifier.rotation import git
from verifier.rotation.git import Git, GitError, find_repositories


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def fake(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another program in the place of git."""
    path = folder / "bin" / "git"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_repositories_are_found_from_below(repository, tmp_path):
    (repository / "a" / "b").mkdir(parents=True)
    (repository / "a" / ".git").mkdir()
    assert find_repositories(repository / "b") == [repository]
    assert find_repositories(repository / "a" / "b") == [repository / "a", repository]
    assert find_repositories(Path("/")) == []


def test_a_command_that_fails_is_an_error_with_its_message(repository):
    with pytest.raises(GitError, match=r"^git rev-parse failed \(fatal: "):
        Git(repository).run("rev-parse", "HEAD")
    assert Git(repository).text("rev-parse", "--verify", "--quiet", "HEAD", expected=(0, 1)) == ""


def test_a_command_that_fails_silently_is_an_error(repository, monkeypatch):
    fake(repository, "raise SystemExit(3)", monkeypatch)
    with pytest.raises(GitError, match=r"^git status failed \(exit status 3\)$"):
        Git(repository).run("status")


def test_a_command_that_does_not_end_is_ended_with_what_it_started(repository, monkeypatch):
    fake(repository, "import os, time; os.fork(); time.sleep(60)", monkeypatch)
    with pytest.raises(GitError, match=r"^git status did not end in time$"):
        Git(repository, timeout_s=1.0).run("status")


def test_what_git_started_is_ended_where_git_itself_has_ended(repository, monkeypatch):
    fake(repository, "import os, time\nif not os.fork(): time.sleep(60)", monkeypatch)
    started = time.monotonic()
    with pytest.raises(GitError, match=r"^git status did not end in time$"):
        Git(repository, timeout_s=1.0).run("status")
    assert time.monotonic() - started < 30  # what still ran would hold the pipe open for 60 s


def test_a_process_that_was_waited_for_is_not_ended_again(monkeypatch):
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: killed.append(arguments))
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE, start_new_session=True) as process:
        git._kill(process)
        process.wait()
        git._kill(process)
    assert killed == [(process.pid, signal.SIGKILL)]


def test_output_without_end_is_cut(repository, monkeypatch):
    monkeypatch.setattr(git, "MAX_OUTPUT_BYTES", 1000)
    fake(repository, "import sys\nwhile True: sys.stdout.write('x' * 1000)", monkeypatch)
    with pytest.raises(GitError, match=r"^git status printed more than 1000 bytes$"):
        Git(repository).run("status")


def test_the_environment_of_git_is_not_inherited(repository, monkeypatch):
    fake(repository, "import os; print([n for n in sorted(os.environ) if n.startswith('GIT_')])", monkeypatch)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    own = ["ALLOW_PROTOCOL", "CEILING_DIRECTORIES", "NO_REPLACE_OBJECTS", "TERMINAL_PROMPT", "WORK_TREE"]
    assert Git(repository).text("status") == f"{[f'GIT_{name}' for name in own]}\n"


def test_changes_are_listed_with_their_commit(repository, monkeypatch):
    first, second = "a" * 40, "b" * 64
    raw = ":000000 100644 " + "0" * 40 + " {} A\0"
    output = f"\x01{first}\0\n{raw.format('c')}x\0{raw.format('d')}y\0\0\x01{second}\0\n{raw.format('e')}z\0"
    fake(repository, f"print({output!r}, end='')", monkeypatch)
    assert list(Git(repository).changes()) == [(first, "c", "x"), (first, "d", "y"), (second, "e", "z")]
