"""The files for reviews: the workflow, the pre-commit hook and the rehearsal do what docs/evidence.md says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.rotation.test_tampering import commit, git
from tests.system.test_deploy import TOOLS, good, run, tool

ROOT = Path(__file__).parents[2]
REVIEW = ROOT / "deploy" / "review"
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/"),
    "LANG": "C.UTF-8",
}


def sh(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed key directory."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("keys/private/\n")
    assert sh("verifier keys generate", tmp_path).returncode == 0
    commit(tmp_path)
    return tmp_path


def step() -> str:
    """The script of the last step of the workflow."""
    text = (REVIEW / "audit-keys.yml").read_text()
    return re.sub(r"(?m)^ {10}", "", text[text.rindex("run: |\n") + 7 :])


@pytest.mark.parametrize("tampered", [False, True])
def test_the_workflow_shows_the_audit_to_the_reviewer(repository, tampered):
    anchor = sh("verifier keys audit | sed -n 's/^anchor *//p'", repository).stdout.strip()
    assert re.fullmatch(r"1:[0-9a-f]{64}", anchor)
    if tampered:
        log = repository / "keys" / "history.jsonl"
        log.write_text(log.read_text().replace('"by": "', '"by": "not '))
        commit(repository)
    done = sh(step(), repository, ANCHOR=anchor, BASE="HEAD", GITHUB_STEP_SUMMARY="summary")
    summary = (repository / "summary").read_text()
    assert done.returncode == (1 if tampered else 0), done.stderr
    assert ("critical  anchor: line 1 has digest" in summary) is tampered
    assert f"since   {anchor}: 0 line(s) added" in summary
    assert sh(step(), repository, BASE="HEAD", GITHUB_STEP_SUMMARY="summary").returncode == (1 if tampered else 0)


@pytest.mark.parametrize("late", [False, True])
def test_the_workflow_compares_with_the_keys_of_the_base_branch(repository, late):
    base = git(repository, "rev-parse", "HEAD").strip()
    assert sh(f"verifier keys rotate {'--lead 5m --force' if late else ''}", repository).returncode == 0
    commit(repository)
    done = sh(step(), repository, BASE=base, GITHUB_STEP_SUMMARY="summary")
    assert done.returncode == (1 if late else 0), done.stderr
    assert ("high      late-change: " in (repository / "summary").read_text()) is late


def test_the_workflow_passes_where_the_base_branch_has_no_keys(repository):
    tree = git(repository, "rev-parse", "HEAD^{tree}").strip()
    listed = git(repository, "ls-tree", tree, ".gitignore")
    made = subprocess.run(["git", "mktree"], input=listed, cwd=repository, check=True, capture_output=True, text=True)
    base = git(repository, "commit-tree", "-m", "no keys", made.stdout.strip()).strip()
    done = sh(step(), repository, BASE=base, GITHUB_STEP_SUMMARY="summary")
    assert done.returncode == 0, done.stderr


def test_the_workflow_is_the_one_of_the_documentation_and_has_no_findings_of_a_linter(tmp_path):
    path = REVIEW / "audit-keys.yml"
    assert f"```yaml\n{path.read_text()}```" in (ROOT / "docs" / "evidence.md").read_text()
    good(tool("check-jsonschema", TOOLS), "--builtin-schema", "vendor.github-workflows", path)
    lint = [tool("zizmor", TOOLS), "--offline", "--no-progress"]
    good(*lint, path, *(ROOT / ".github" / "workflows").glob("*.yml"))
    broken = tmp_path / ".github" / "workflows" / "audit-keys.yml"
    broken.parent.mkdir(parents=True)
    broken.write_text(path.read_text().replace("status=0", "status=0; echo ${{ github.event.pull_request.title }}"))
    done = run(*lint, broken)
    assert (done.returncode, "template-injection" in done.stdout) == (14, True), done.stdout + done.stderr


def test_pre_commit_runs_the_hook_in_a_repository_with_keys(repository, tmp_path_factory):
    pre_commit = [tool("pre-commit", TOOLS), "try-repo", ROOT, "audit-keys", "--all-files", "--verbose"]
    if not (ROOT / ".git").exists():
        pytest.skip("pre-commit clones this repository, and this is not one")
    environment = ENVIRONMENT | {"PRE_COMMIT_HOME": str(tmp_path_factory.mktemp("pre-commit"))}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = run(*pre_commit, cwd=repository, env=environment, timeout=500)  # installs the package
    if re.search("No matching distribution found|Could not fetch URL|Connection|Read timed out", done.stdout):
        pytest.skip("the dependencies of the package cannot be had")
    assert (done.returncode, "0 finding(s)" in done.stdout) == (0, True), done.stdout + done.stderr
    path = next((repository / "keys" / "public").iterdir())
    path.write_text(path.read_text().replace('"use"', '"key_ops": ["sign"], "use"'))
    done = run(*pre_commit, cwd=repository, env=environment, timeout=500)  # installs the package
    assert (done.returncode, "medium    members: " in done.stdout) == (1, True), done.stdout + done.stderr


def test_the_hook_is_valid_and_its_command_runs(repository):
    members = dict(re.findall(r"(?m)^[- ] (\w+): (.*)$", (ROOT / ".pre-commit-hooks.yaml").read_text()))
    assert members.keys() == {"id", "name", "description", "entry", "language", "files", "pass_filenames"}
    for path in ("keys/public/x.json", "keys/history.jsonl"):
        assert re.search(members["files"], path)
    assert not re.search(members["files"], "keys/README.md")
    assert sh("verifier keys rotate && git add keys/public keys/history.jsonl", repository).returncode == 0
    done = sh(members["entry"], repository, GIT_INDEX_FILE=str(repository / ".git" / "index"), GIT_DIR=".git")
    assert done.returncode == 0, done.stdout
    assert sh("verifier keys audit", repository).returncode == 1
    path = next((repository / "keys" / "public").iterdir())
    path.write_text(path.read_text().replace('"use"', '"key_ops": ["sign"], "use"'))
    assert "medium    members: " in sh(members["entry"], repository).stdout


def test_the_rehearsal_measures_and_leaves_everything_as_it_was(repository):
    if shutil.which("curl") is None:
        pytest.skip("the rehearsal sends its requests with curl")
    shutil.rmtree(repository / "keys" / "private")  # a reviewer has none
    before = {path: path.read_bytes() for path in (repository / "keys").rglob("*") if path.is_file()}
    done = sh((REVIEW / "rehearsal.sh").read_text(), repository, PORT=str(free_port()))
    assert re.fullmatch(
        r"before the revocation: 200\n"
        r"after the revocation: 401\n"
        r"revoked in \d+\.\d s, rejected \d+\.\d s later\n"
        r"pass  http://127.0.0.1:\d+  the same keys\n"
        r"rehearsal.html: 3 key\(s\), \d+ finding\(s\)\n",
        done.stdout,
    ), done.stdout + done.stderr
    assert done.returncode == 0
    assert {path: path.read_bytes() for path in (repository / "keys").rglob("*") if path.is_file()} == before
    assert "Signing key report" in (repository / "rehearsal.html").read_text()
