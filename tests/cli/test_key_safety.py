"""No command loses a key: files, histories and clocks that a plan must not be based on, and merges."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import NOW, Done
from verifier.rotation import history
from verifier.storage.key_directory import KeyDirectory

PUBLIC, PRIVATE, HISTORY = Path("keys/public"), Path("keys/private"), Path("keys/history.jsonl")
DAY = 86_400
SWITCH = NOW + 3600
COMMANDS = {
    "generate": ("generate",),
    "rotate": ("rotate",),
    "cancel": ("cancel",),
    "prune": ("prune",),
    "import": ("import", "other.json"),
}


def states(now: int = NOW) -> dict[str, str]:
    directory = KeyDirectory(PUBLIC)
    directory.refresh()
    return {kid: directory.keyring.state(key, now).value for kid, key in directory.keyring.keys.items()}


def key(kid: str):
    return KeyDirectory(PUBLIC).load().find(kid)


def tree() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("keys").rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def first(run, pairs) -> str:
    """The kid of the first key, generated a day ago, beside a public key that could be imported."""
    assert run("keys", "generate", now=NOW - DAY).status == 0
    Path("other.json").write_text(json.dumps(pairs["ES256"].public))
    return next(iter(states()))


@pytest.fixture
def pending(run, first) -> str:
    assert run("keys", "rotate").status == 0
    return next(kid for kid, state in states().items() if state == "pending")


def damage_bom(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"}")


def damage_conflict(path: Path) -> None:
    text = path.read_text()
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")


def damage_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_size(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(200_000_000)


def damage_missing(path: Path) -> None:
    path.unlink()


DAMAGES = [damage_bom, damage_conflict, damage_pipe, damage_size, damage_missing]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_command_plans_beside_a_public_file_that_cannot_be_used(run, first, pending, damage, command):
    path = PUBLIC / f"{first}.json"
    damage(path)
    before = {p: p.stat().st_size for p in Path("keys").rglob("*") if p.name != ".lock"}
    done = run("keys", *COMMANDS[command])
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith(f"verifier: error: {path}: ")
    assert done.err.splitlines()[0].endswith("; nothing was changed")
    expected = "verifier keys merge" if damage is damage_conflict else f"git checkout -- {path}"
    assert expected in done.err.splitlines()[1]
    assert {p: p.stat().st_size for p in Path("keys").rglob("*") if p.name != ".lock"} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_revocation_proceeds_beside_a_file_that_cannot_be_used_and_names_it(run, first, pending, damage):
    path = PUBLIC / f"{first}.json"
    damage(path)
    done = run("keys", "revoke", "--kid", pending, "--reason", "leaked", *(["--force"] * (damage is damage_missing)))
    assert done.status == 0
    assert f"verifier: warning: {path}: " in done.err
    assert states()[pending] == "revoked"


HISTORIES = {
    "conflict": (lambda log: b"<<<<<<< HEAD\n" + log + b"=======\n>>>>>>> b\n", "verifier keys merge"),
    "utf-16": (lambda log: log.decode().encode("utf-16"), "restore the file from version control"),
    "line-removed": (lambda log: log.partition(b"\n")[2], "verifier keys merge; otherwise restore"),
    "line-changed": (lambda log: log.replace(b'"rotate"', b'"prune"', 1), "verifier keys merge; otherwise restore"),
    "no-json": (lambda log: log + b"note\n", "restore the file from version control"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", HISTORIES)
def test_no_command_appends_to_a_history_that_is_not_valid(run, pending, kind, command):
    damage, remedy = HISTORIES[kind]
    HISTORY.write_bytes(damage(HISTORY.read_bytes()))
    before = tree()
    done = run("keys", *COMMANDS[command])
    assert (done.status, done.out, tree()) == (3, "", before)
    assert done.err.startswith(f"verifier: error: {HISTORY}: line ")
    assert remedy in done.err


@pytest.mark.parametrize("kind", [*HISTORIES, "pipe"])
def test_a_revocation_beside_a_damaged_history_is_recorded_when_it_is_repaired(run, first, pending, kind):
    good = HISTORY.read_bytes()
    if kind == "pipe":
        HISTORY.unlink()
        os.mkfifo(HISTORY)
    else:
        HISTORY.write_bytes(HISTORIES[kind][0](good))
    done = run("keys", "revoke", "--kid", pending, "--reason", "leaked", now=NOW + 60)
    assert (done.status, states()[pending]) == (0, "revoked")
    assert f"verifier: warning: {HISTORY} is damaged and has no line of this" in done.err
    HISTORY.unlink()
    HISTORY.write_bytes(good)
    assert run("keys", "merge", now=NOW + 90).status == 0
    assert run("keys", "prune", now=NOW + 90).status == 0
    assert run("keys", "audit", now=NOW + 90).status == 0
    assert history.replay(history.load(HISTORY.read_bytes()).events)[pending].revoked_at == NOW + 60


@pytest.mark.parametrize("command", [*COMMANDS, "revoke"])
@pytest.mark.parametrize("late", [1, 40, 7200])
def test_a_clock_behind_the_history_is_reported_and_stops_every_command(run, first, pending, command, late):
    words = COMMANDS.get(command, ("revoke", "--kid", first, "--reason", "x", "--replace"))
    before = tree()
    done = run("keys", *words, now=NOW - late)
    assert (done.status, done.out, tree()) == (1, "", before)
    assert done.err.startswith("verifier: error: the clock (2027-01-15 0")
    assert " is behind the last line of keys/history.jsonl (2027-01-15 08:00:00 UTC); nothing was changed\n" in done.err


def test_in_an_emergency_a_clock_that_is_behind_is_corrected_by_the_history(run, first):
    done = run("keys", "revoke", "--kid", first, "--reason", "x", "--replace", "--force", now=NOW - 2 * DAY)
    assert done.status == 0
    assert sorted(states(NOW - DAY).values()) == ["current", "revoked"]
    assert key(first).revoked_at == NOW - DAY


def test_a_first_key_is_not_generated_beside_a_pending_one(run, first, pending):
    (PUBLIC / f"{first}.json").unlink()
    assert run("keys", "revoke", "--kid", first, "--reason", "lost", "--force").status == 0
    done = run("keys", "generate")
    assert done == Done(
        1,
        "",
        f"verifier: error: a key is pending (found {pending}, active from "
        "2027-01-15 09:00:00 UTC)\n"
        "verifier: hint: wait until then, or correct this clock if it is behind; to withdraw the key: "
        f"verifier keys cancel --kid {pending[:8]}\n",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_revocation_that_was_removed_from_its_file_stops_every_command(run, first, command):
    path = PUBLIC / f"{first}.json"
    trusted = path.read_bytes()
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    path.write_bytes(trusted)
    done = run("keys", *COMMANDS[command], now=NOW + 9)
    assert done.status == 3
    assert done.err.startswith(f"verifier: error: {path}: is not revoked, but the history records its revocation")
    assert run("keys", "revoke", "--kid", first, "--reason", "x", now=NOW + 9).status == 0
    assert run("keys", "prune", now=NOW + 9).status == 0


def test_a_key_whose_file_is_lost_can_be_given_up(run, first, pending):
    (PUBLIC / f"{pending}.json").unlink()
    assert run("keys", "prune").status == 3
    given_up = run("keys", "revoke", "--kid", pending[:8], "--reason", "lost")
    assert given_up.status == 0
    assert f"{pending}  deleted (file missing: lost)\n" in given_up.out
    assert run("keys", "prune").status == 0


def test_a_pending_key_without_its_private_key_is_not_promoted(run, first, pairs):
    assert run("keys", "import", "other.json").status == 0
    imported = pairs["ES256"].kid
    listed = run("keys", "list")
    assert listed.status == 0
    assert (
        f"verifier: warning: keys/private/{imported}.pem is missing, and {imported} signs from 2027-01-15 09:00:00 UTC"
        in listed.err
    )
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    found = states()
    assert (found[first], found[imported], len(found)) == ("revoked", "pending", 3)
    (current,) = (kid for kid, state in found.items() if state == "current")
    assert (PRIVATE / f"{current}.pem").exists()
    assert key(current).exp == SWITCH + 360


def test_replace_on_a_pending_key_publishes_another_one(run, first, pending):
    done = run("keys", "revoke", "--kid", pending, "--reason", "x", "--replace")
    assert (done.status, done.err) == (0, "")
    found = states()
    assert (found[first], found[pending], len(found)) == ("current", "revoked", 3)
    (other,) = (kid for kid, state in found.items() if state == "pending")
    assert (key(other).nbf, key(first).exp) == (SWITCH, SWITCH + 360)


def test_replace_on_a_key_that_does_not_sign_is_reported(run, first, pending):
    done = run("keys", "revoke", "--kid", first, "--reason", "x", "--replace", now=SWITCH + 60)
    assert (done.status, len(states())) == (0, 2)
    assert done.err == f"verifier: warning: --replace has no effect: {first} is retiring and {pending} signs\n"


def test_prune_uses_the_leeway_of_the_verifier(run, first, pending):
    assert run("keys", "prune", "--leeway", 60, now=SWITCH + 59) == Done(0, "Nothing to do.\n")
    assert run("keys", "prune", "--leeway", 60, now=SWITCH + 60).out != "Nothing to do.\n"


def test_a_reason_that_is_not_utf8_is_escaped_and_not_refused(run, first):
    done = run("keys", "revoke", "--kid", first, "--reason", os.fsdecode(b"vol\xe9"), "--replace")
    assert done.status == 0
    assert done.err == "verifier: warning: --reason is not UTF-8; recorded as 'vol\\\\xe9'\n"
    assert key(first).reason == "vol\\xe9"


def test_a_reason_has_at_most_1000_characters(run, first):
    revoke = ("keys", "revoke", "--kid", first, "--replace", "--reason")
    error, hint = run(*revoke, "x" * 1001).err.splitlines()
    assert error == "verifier: error: --reason has 1001 characters (expected 1000 or fewer)"
    assert hint.endswith("verifier keys revoke --help shows the usage and examples")
    assert run(*revoke, "x" * 1000).status == 0
    assert key(first).reason == "x" * 1000


def test_a_private_folder_on_another_volume_works(run, tmp_path):
    (tmp_path / "volume" / "deep").mkdir(parents=True)
    Path("keys").mkdir()
    PRIVATE.symlink_to(tmp_path / "volume" / "deep")
    for command in (("generate",), ("rotate",), ("cancel",)):
        assert run("keys", *command).status == 0
    assert list(states().values()) == ["current"]
    assert len(list((tmp_path / "volume" / "deep").glob("*.pem"))) == 1
    assert sorted(path.name for path in Path("keys").iterdir()) == ["history.jsonl", "private", "public"]


def test_a_linked_history_and_linked_key_files_are_written_where_they_are(run, first, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for path in (HISTORY, PUBLIC / f"{first}.json"):
        shutil.move(path, real / path.name)
        path.symlink_to(real / path.name)
    assert run("keys", "rotate").status == 0
    assert HISTORY.is_symlink()
    assert (PUBLIC / f"{first}.json").is_symlink()
    assert len((real / "history.jsonl").read_bytes().splitlines()) == 3
    assert json.loads((real / f"{first}.json").read_text())["exp"] == SWITCH + 360


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask_and_private_keys_are_not_committed(run, umask):
    before = os.umask(umask)
    try:
        assert run("keys", "generate", "--keys", "new/keys").status == 0
    finally:
        os.umask(before)
    modes = {name: (Path("new") / name).stat().st_mode & 0o777 for name in (".", "keys", "keys/public", "keys/private")}
    assert modes == {".": 0o755, "keys": 0o755, "keys/public": 0o755, "keys/private": 0o700}
    assert Path("new/keys/private/.gitignore").read_text().endswith("\n*\n")


# --- merges


def branch(run, name: str, *commands: tuple[tuple[str, ...], int]) -> Path:
    """A copy of the key directory in which commands ran, as on another branch."""
    shutil.copytree("keys", name)
    for command, now in commands:
        assert run("keys", *command, "--keys", name, now=now).status == 0
    return Path(name)


def merge_tree(ours: Path, theirs: Path, base: Path) -> None:
    """Merge as version control does: what both sides changed differently has conflict markers."""
    for path in sorted(
        {p.relative_to(d) for d in (ours, theirs) for p in d.rglob("*") if p.suffix in (".json", ".jsonl")}
    ):
        texts = [(d / path).read_text() if (d / path).exists() else None for d in (base, ours, theirs)]
        before, mine, other = texts
        if mine == other or other == before:
            continue
        if mine == before:
            (ours / path).write_text(other) if other is not None else (ours / path).unlink()
            continue
        kept = "".join(line for line in (before or "").splitlines(keepends=True)) if path.suffix == ".jsonl" else ""
        mine, other = (text.removeprefix(kept) for text in (mine or "", other or ""))
        (ours / path).write_text(f"{kept}<<<<<<< HEAD\n{mine}=======\n{other}>>>>>>> other\n")


def test_two_rotations_on_two_branches_are_merged_and_one_is_withdrawn(run, first):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("rotate", "--lead", "2h"), NOW + 30))
    assert run("keys", "rotate", now=NOW + 60).status == 0
    merge_tree(Path("keys"), theirs, base)
    assert run("keys", "list", now=NOW + 90).status == 1
    merged = run("keys", "merge", now=NOW + 120)
    assert merged.status == 0
    assert "2 keys are pending; withdraw all but one: verifier keys cancel --kid " in merged.err
    mine, other = (kid for kid, state in states(NOW + 120).items() if state == "pending")
    assert (key(first).exp, key(mine).exp, key(other).exp) == (NOW + 60 + 3960, NOW + 30 + 7200 + 360, None)
    assert run("keys", "cancel", now=NOW + 150).err.startswith("verifier: error: 2 keys are pending: ")
    shutil.copytree("keys", "copy")
    assert run("keys", "cancel", "--kid", mine, "--keys", "copy", now=NOW + 150).status == 0
    members = json.loads((Path("copy/public") / f"{first}.json").read_text())
    assert members["exp"] == NOW + 30 + 7200 + 360  # the other one replaces it
    assert run("keys", "cancel", "--kid", other, now=NOW + 150).status == 0
    assert (key(first).exp, key(mine).exp) == (NOW + 60 + 3960, None)
    assert run("keys", "audit", now=NOW + 150).status == 0
    events = history.load(HISTORY.read_bytes()).events
    (line,) = [event for event in events if event.merged]
    assert line.reason.startswith("merged another branch: 2 line(s) ending in ")
    assert b"".join(text.encode() + b"\n" for text in line.merged) in (theirs / "history.jsonl").read_bytes()


def test_a_key_that_either_branch_revoked_is_revoked_after_the_merge(run, first):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("revoke", "--kid", first, "--reason", "leaked", "--replace"), NOW + 30))
    assert run("keys", "rotate", now=NOW + 60).status == 0
    merge_tree(Path("keys"), theirs, base)
    assert run("keys", "merge", now=NOW + 90).status == 0
    assert states(NOW + 90)[first] == "revoked"
    assert sorted(states(NOW + 90).values()) == ["current", "pending", "revoked"]


def test_both_sides_lines_without_markers_are_merged_as_well(run, first):
    base = branch(run, "base")
    theirs = branch(run, "theirs", (("rotate", "--lead", "2h"), NOW + 30))
    ours = HISTORY.read_bytes()
    merge_tree(Path("keys"), theirs, base)
    HISTORY.write_bytes(ours)
    assert run("keys", "prune", now=NOW + 60).status == 3  # the files are merged, and the history is not
    assert run("keys", "rotate", "--keys", "base", now=NOW + 60).status == 0
    HISTORY.write_bytes(Path("base/history.jsonl").read_bytes() + theirs.joinpath("history.jsonl").read_bytes())
    for path in Path("base/public").iterdir():
        shutil.copy(path, PUBLIC)
    assert run("keys", "merge", now=NOW + 90).status == 0
    assert history.load(HISTORY.read_bytes()).problems == ()


def test_there_is_nothing_to_merge_in_a_good_directory(run, first, pending):
    before = tree()
    assert run("keys", "merge") == Done(0, "Nothing to do.\n")
    assert tree() == before


@pytest.mark.parametrize("kind", ["line-removed", "line-changed", "no-json", "utf-16"])
def test_a_history_that_was_changed_is_not_merged(run, pending, kind):
    HISTORY.write_bytes(HISTORIES[kind][0](HISTORY.read_bytes()))
    before = tree()
    done = run("keys", "merge")
    assert (done.status, done.out, tree()) == (3, "", before)
    assert done.err.startswith(f"verifier: error: {HISTORY}: a line ")


def test_no_command_damages_files_with_the_line_ends_of_windows(run, first):
    for number, command in enumerate(["rotate", "cancel", "rotate", "prune", "merge", "revoke"]):
        for path in (HISTORY, *PUBLIC.glob("*.json")):
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        words = ("--kid", first, "--reason", "leaked", "--replace") if command == "revoke" else ()
        assert run("keys", command, *words, now=NOW + number).status == 0
        assert history.load(HISTORY.read_bytes()).problems == ()
    assert run("keys", "prune", now=NOW + 9).status == 0
    assert run("keys", "audit", now=NOW + 9).status == 0


def test_the_command_that_restores_a_file_can_be_pasted_whatever_its_folder_is_called(run, tmp_path):
    folder = tmp_path / "my game's keys"
    assert run("keys", "generate", "--keys", folder).status == 0
    [path] = (folder / "public").iterdir()
    path.write_text("{")
    done = run("keys", "rotate", "--keys", folder)
    [command] = re.findall(r"restore it \((git checkout -- .*?)\)\n", done.err)
    assert shlex.split(command) == ["git", "checkout", "--", str(path)]


@pytest.mark.parametrize("command", ["list", "audit"])
def test_the_name_of_a_file_adds_no_line_to_the_output(run, first, command):
    (PUBLIC / "a\n0 finding(s)\n.json").write_text("{}")
    done = run("keys", command)
    assert done.status == 1
    assert "0 finding(s)" not in (done.out + done.err).splitlines()
