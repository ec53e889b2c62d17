"""The commands about keys on input, folders and files that cannot be used: one message each, and nothing is changed."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import NOW, Done
from tests.rotation.test_tampering import git
from tests.support import forge
from verifier.cli.changes import MAX_INPUT_BYTES, read_input
from verifier.errors import ConfigError
from verifier.rotation import history
from verifier.rotation.history import Anchor
from verifier.signing import keystore
from verifier.storage.journal import Directory
from verifier.storage.key_directory import KeyDirectory

PUBLIC, HISTORY = Path("keys/public"), Path("keys/history.jsonl")
DAY = 86_400
IMPORT_HINT = "verifier: hint: remove the keys that cannot be used from the file, or correct them\n"


@pytest.fixture
def first(run) -> str:
    """The kid of the first key, generated a day ago."""
    assert run("keys", "generate", now=NOW - DAY).status == 0
    (kid,) = KeyDirectory(PUBLIC).load().keys
    return kid


def tree() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("keys").rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("command", ["rotate", "cancel", "prune", "revoke --kid a --reason b", "merge", "recover"])
def test_a_command_that_needs_a_key_directory_creates_none(run, command):
    done = run("keys", *command.split())
    assert (done.status, done.out) == (3, "")
    assert done.err == (
        "verifier: error: keys/public: no such folder\n"
        "verifier: hint: correct the path, or create it: verifier keys generate --keys keys\n"
    )
    assert not Path("keys").exists()


def test_a_history_that_cannot_be_read_stops_every_change_but_a_revocation(run, first):
    HISTORY.unlink()
    HISTORY.mkdir()
    before = tree()
    assert run("keys", "rotate") == Done(
        3,
        "",
        f"verifier: error: {HISTORY}: cannot be read (Is a directory)\n"
        "verifier: hint: restore the file from version control\n",
    )
    assert tree() == before
    assert run("keys", "revoke", "--kid", first, "--reason", "leaked", "--force").status == 0
    keyring = KeyDirectory(PUBLIC).load()
    assert keyring.state(keyring.keys[first], NOW) == "revoked"


def test_standard_input_is_read_up_to_a_limit(monkeypatch):
    for size in (MAX_INPUT_BYTES, MAX_INPUT_BYTES + 1):
        data = b"y" * size
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        if size == MAX_INPUT_BYTES:
            assert read_input("-") == data
        else:
            with pytest.raises(ConfigError, match=r"(?m)^standard input is larger than 1048576 bytes$"):
                read_input("-")


def test_a_file_that_cannot_be_read_is_not_imported(run):
    assert run("keys", "import", "missing.json") == Done(
        3, "", "verifier: error: missing.json: cannot be read (No such file or directory)\n"
    )
    assert not Path("keys").exists()


def test_an_import_as_json_prints_nothing_but_json(run, pairs):
    done = run("keys", "import", "-", "--json", stdin=json.dumps(pairs["ES256"].public))
    assert (done.status, done.err) == (0, "")
    document = json.loads(done.out)
    assert [(event["command"], event["kid"]) for event in document["events"]] == [("import", pairs["ES256"].kid)]
    assert document["key_set_digest"] == KeyDirectory(PUBLIC).load().digest


def test_a_key_that_was_revoked_here_is_not_imported_again(run, first):
    members = json.loads((PUBLIC / f"{first}.json").read_text())
    assert run("keys", "revoke", "--kid", first, "--reason", "leaked", "--replace").status == 0
    before = tree()
    assert run("keys", "import", "-", stdin=json.dumps(members)) == Done(
        1,
        "",
        f"verifier: error: -: nothing was imported (all keys or none): key 1 ({first}): "
        "was revoked here: a revoked key is never trusted again\n" + IMPORT_HINT,
    )
    assert tree() == before


def test_a_key_that_has_expired_is_not_imported(run, pairs):
    kid = pairs["ES256"].kid
    members = pairs["ES256"].public | {"nbf": NOW - 9, "exp": NOW}
    assert run("keys", "import", "-", stdin=json.dumps(members)) == Done(
        1,
        "",
        f"verifier: error: -: nothing was imported (all keys or none): key 1 ({kid}): "
        "expired 2027-01-15 08:00:00 UTC\n" + IMPORT_HINT,
    )
    assert list(PUBLIC.iterdir()) == []


def two_keys_with_one_beginning() -> list[dict[str, str]]:
    by_beginning: dict[str, dict[str, str]] = {}
    for _ in range(65):  # one more than there are beginnings
        key = forge.Pair("ES256", keystore.generate("ES256")).public
        other = by_beginning.setdefault(key["kid"][0], key)
        if other is not key:
            return [other, key]
    raise AssertionError


def test_a_prefix_of_several_keys_revokes_none(run):
    pair = two_keys_with_one_beginning()
    assert run("keys", "import", "-", stdin=json.dumps({"keys": pair})).status == 0
    keyring, before, prefix = KeyDirectory(PUBLIC).load(), tree(), pair[0]["kid"][0]
    names = ", ".join(f"{kid} ({keyring.state(key, NOW)})" for kid, key in keyring.keys.items())
    assert run("keys", "revoke", "--kid", prefix, "--reason", "leaked") == Done(
        1, "", f"verifier: error: 2 keys match {prefix!r}: {names}\nverifier: hint: give more of the kid\n"
    )
    assert tree() == before


@pytest.mark.parametrize("prefix", ["*", "**", "?", "[", "/", "..", "../private/", "no\nkey"])
def test_a_prefix_is_text_and_not_a_pattern_or_a_path(run, first, prefix):
    before = tree()
    done = run("keys", "revoke", "--kid", prefix, "--reason", "leaked")
    assert (done.status, done.out, tree()) == (1, "", before)
    assert done.err == f"verifier: error: no key matches {prefix!r}\nverifier: hint: verifier keys list\n"


def test_a_key_whose_file_cannot_be_used_is_not_revoked(run, first):
    path = PUBLIC / f"{first}.json"
    path.write_text("{")
    done = run("keys", "revoke", "--kid", first, "--reason", "leaked")
    assert (done.status, done.out, path.read_text()) == (3, "", "{")
    assert done.err.endswith(
        f"verifier: error: {path}: cannot be used, so no server that reads it accepts the key; it was not revoked\n"
        f"verifier: hint: restore the file (git checkout -- {path}), then revoke the key\n"
    )


def test_merge_finishes_a_change_that_was_interrupted(run, first, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Directory, "_apply", interrupt)
        assert run("keys", "rotate").status == 1
    assert list(KeyDirectory(PUBLIC).load().keys) == [first]
    assert run("keys", "merge") == Done(
        0,
        "Nothing to do.\n",
        "verifier: warning: finished the rotate of 2027-01-15 08:00:00 UTC, which was interrupted\n",
    )
    events = history.load(HISTORY.read_bytes()).events
    assert [event.command for event in events] == ["generate", "rotate", "rotate"]
    assert len(KeyDirectory(PUBLIC).load().keys) == 2


def test_audit_in_a_checkout_names_its_commit(run, first):
    for command in (("init", "-q"), ("add", "keys"), ("commit", "-q", "-m", "keys: the first key")):
        git(Path.cwd(), *command)
    commit = git(Path.cwd(), "rev-parse", "HEAD").strip()
    anchor = Anchor.of(HISTORY.read_bytes())
    assert run("keys", "audit") == Done(0, f"anchor  {anchor}\ncommit  {commit} clean\n0 finding(s)\n")


def test_list_without_a_key_directory_names_the_fix(run):
    assert run("keys", "list", "--keys", "none") == Done(
        1,
        "",
        "verifier: error: none/public: cannot be read (No such file or directory)\n"
        "verifier: hint: correct the path, or create it: verifier keys generate --keys none\n",
    )


@pytest.mark.parametrize("name", ["public", "private"])
@pytest.mark.parametrize("command", ["generate", "rotate", "list", "audit", "merge"])
def test_a_folder_inside_the_key_directory_is_not_taken_for_it(run, first, name, command):
    before = tree()
    done = run("keys", command, "--keys", f"keys/{name}")
    assert done.status in (1, 3)
    assert done.err.endswith(f"verifier: hint: name the folder that holds {name}/: keys\n")
    assert tree() == before


def test_a_command_in_a_hint_has_the_files_of_the_command_line(run, first):
    moved = Path("keys").rename("other keys")
    assert run("keys", "generate", "--keys", moved).err == (
        f"verifier: error: a key is current already (found {first})\n"
        "verifier: hint: schedule the next one: verifier keys rotate --keys 'other keys'\n"
    )


def test_a_command_in_a_hint_is_short_where_the_defaults_are_used(run, first):
    assert run("keys", "generate").err.endswith("hint: schedule the next one: verifier keys rotate\n")


def test_a_deployed_key_directory_that_is_missing_is_not_to_be_created(run):
    assert run("keys", "generate").status == 0
    assert run("keys", "audit", "--deployed", "nowhere") == Done(
        3,
        "",
        "verifier: error: nowhere/public: cannot be read (No such file or directory)\n"
        "verifier: hint: name a folder with the keys that are deployed: --deployed FOLDER\n",
    )


def test_a_report_that_cannot_be_written_is_named(run):
    assert run("keys", "generate").status == 0
    done = run("keys", "report", "--html", "nowhere/page.html")
    assert (done.status, done.err) == (3, "verifier: error: nowhere/page.html: No such file or directory\n")
