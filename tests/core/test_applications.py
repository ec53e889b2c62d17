"""Who may ask: two live secrets, one answer for every refusal, and a file that is read again."""

import dataclasses
import hashlib
import hmac
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.core.applications import Application, Applications, Secret, parse
from verifier.core.encoding import describe_flaw
from verifier.errors import ConfigError, InvalidClient, UnsafeOperationError
from verifier.rotation.secret_changes import add_secret, dump, remove_secret
from verifier.server.reload import ApplicationsFile
from verifier.server.settings import Settings

OLD, NEW = "the-old-secret-0123", "the-new-secret-0123"
CANARY = "canary-canary-canary"
REFUSED = "unknown application or wrong secret"


def applications(**secrets):
    return Applications(Application(name, tuple(map(Secret.of, texts))) for name, texts in secrets.items())


def is_refused(known, application_id, secret):
    with pytest.raises(InvalidClient, match=f"^{REFUSED}$"):
        known.authenticate(application_id=application_id, secret=secret)
    return True


def ids(known):
    return list(known.by_id)


# --- authenticate


def test_either_active_secret_is_accepted_and_its_slot_returned():
    known = applications(game=[OLD, NEW])
    assert known.authenticate(application_id="game", secret=OLD) == 0
    assert known.authenticate(application_id="game", secret=NEW) == 1


def test_a_secret_given_twice_is_in_its_first_slot():
    assert applications(game=[OLD, OLD]).authenticate(application_id="game", secret=OLD) == 0


@pytest.mark.parametrize(
    ("application_id", "secret"),
    [
        pytest.param("game", "wrong", id="wrong-secret"),
        pytest.param("other", OLD, id="unknown-application"),
        pytest.param("demo", OLD, id="secret-of-another-application"),
        pytest.param("", OLD, id="no-application"),
        pytest.param("game", "", id="no-secret"),
        pytest.param("game", OLD.upper(), id="another-case"),
        pytest.param("game", OLD + "\n", id="newline-after"),
        pytest.param("game ", OLD, id="space-after-the-id"),
        pytest.param("game", hashlib.sha256(OLD.encode()).hexdigest(), id="the-digest"),
        pytest.param("game", OLD + "\ud800", id="half-a-pair-in-the-secret"),
        pytest.param("\ud800", OLD, id="half-a-pair-in-the-id"),
        pytest.param("game", "\ud83d\ude00", id="a-pair-in-two-escapes"),
        pytest.param("game", "é" * 100_000, id="long"),
    ],
)
def test_a_wrong_secret_and_an_unknown_application_are_refused_with_one_text(application_id, secret):
    known = applications(game=[OLD], demo=[NEW])
    assert known.authenticate(application_id="game", secret=OLD) == 0
    assert is_refused(known, application_id, secret)


@pytest.mark.parametrize("secret", ["pässwörd-0123456789", "\U0001f511" * 16, "\u0000" * 16])
def test_a_secret_need_not_be_ascii(secret):
    known = applications(game=[secret])
    assert known.authenticate(application_id="game", secret=secret) == 0
    assert is_refused(known, "game", secret[:-1])


def test_a_secret_in_another_unicode_normal_form_is_another_secret():
    known = applications(game=["caf\u00e9-0123456789abc"])
    assert known.authenticate(application_id="game", secret="caf\u00e9-0123456789abc") == 0
    assert is_refused(known, "game", "cafe\u0301-0123456789abc")


@pytest.mark.parametrize(
    ("application_id", "secret"),
    [
        pytest.param("one", OLD, id="only-secret"),
        pytest.param("two", OLD, id="first-secret"),
        pytest.param("two", NEW, id="second-secret"),
        pytest.param("one", "wrong", id="wrong-secret-of-one"),
        pytest.param("two", "wrong", id="wrong-secret-of-two"),
        pytest.param("unknown", OLD, id="unknown"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_every_authentication_makes_the_same_comparisons(monkeypatch, application_id, secret):
    known = applications(one=[OLD], two=[OLD, NEW])
    compare, sizes = hmac.compare_digest, []

    def counted(a, b):
        sizes.append((type(a), len(a), type(b), len(b)))
        return compare(a, b)

    monkeypatch.setattr("hmac.compare_digest", counted)
    try:
        known.authenticate(application_id=application_id, secret=secret)
    except InvalidClient:
        assert secret == "wrong" or application_id not in ("one", "two")
    assert sizes == [(bytes, 32, bytes, 32)] * 2


@given(st.text(st.characters(exclude_categories=()), max_size=20), st.text(st.characters(exclude_categories=())))
@settings(deadline=None, max_examples=50)
def test_any_texts_are_refused_and_nothing_else_happens(application_id, secret):
    assert is_refused(applications(game=[OLD]), application_id, secret)
    assert is_refused(applications(game=[OLD]), "game", secret)


def test_without_an_application_every_client_is_rejected():
    assert is_refused(Applications(), "game", OLD)
    assert is_refused(Applications([Application("game", ())]), "game", OLD)


def test_weak_secrets_are_named_by_application_and_slot():
    known = applications(game=[OLD, "short"], demo=[" " + NEW], good=[NEW])
    assert known.weaknesses() == [
        "secret 2 of application game is weak: shorter than 16 characters",
        "secret 1 of application demo is weak: white space at an end",
    ]


# --- the file


DIGEST = "0" * 64
BAD = "entry 2 is not an application with 1 or 2 secrets (sha256: 64 hex digits)"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        pytest.param(None, BAD, id="null"),
        pytest.param("demo", BAD, id="string"),
        pytest.param(["demo"], BAD, id="list"),
        pytest.param({}, BAD, id="empty"),
        pytest.param({"id": "demo"}, BAD, id="no-secrets"),
        pytest.param({"secrets": [{"sha256": DIGEST}]}, BAD, id="no-id"),
        pytest.param({"id": "", "secrets": [{"sha256": DIGEST}]}, BAD, id="id-empty"),
        pytest.param({"id": 1, "secrets": [{"sha256": DIGEST}]}, BAD, id="id-number"),
        pytest.param({"id": ["demo"], "secrets": [{"sha256": DIGEST}]}, BAD, id="id-list"),
        pytest.param(
            {"id": "\ud800", "secrets": [{"sha256": DIGEST}]},
            "the id of entry 2 contains an unprintable character (U+D800 at position 1)",
            id="id-half-a-pair",
        ),
        pytest.param({"id": "demo", "secrets": []}, BAD, id="0-secrets"),
        pytest.param({"id": "demo", "secrets": {}}, BAD, id="secrets-object"),
        pytest.param({"id": "demo", "secrets": 1}, BAD, id="secrets-number"),
        pytest.param({"id": "demo", "secrets": DIGEST}, BAD, id="secrets-string"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST}] * 3}, BAD, id="3-secrets"),
        pytest.param({"id": "demo", "secrets": [{}]}, BAD, id="no-digest"),
        pytest.param({"id": "demo", "secrets": [DIGEST]}, BAD, id="digest-alone"),
        pytest.param({"id": "demo", "secrets": [{"sha256": None}]}, BAD, id="digest-null"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST[2:]}]}, BAD, id="62-digits"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST + "00"}]}, BAD, id="66-digits"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST[1:]}]}, BAD, id="63-digits"),
        pytest.param({"id": "demo", "secrets": [{"sha256": "g" * 64}]}, BAD, id="no-hex"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST}, {"sha256": ""}]}, BAD, id="second-digest-empty"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST, "weakness": 1}]}, BAD, id="weakness-number"),
        pytest.param({"id": "demo", "secrets": [{"sha256": DIGEST, "weakness": "\ud800"}]}, BAD, id="weakness-half"),
        pytest.param({"id": "game", "secrets": [{"sha256": DIGEST}]}, "entry 2 repeats the id of another", id="twice"),
    ],
)
def test_a_bad_entry_disables_only_its_own_application(entry, says):
    first, _, last = (json.loads(dump(applications(**{name: [OLD]})))["applications"][0] for name in ("game", "", "z"))
    known, problems = parse(json.dumps({"applications": [first, last]}).encode())
    assert (ids(known), problems) == (["game", "z"], [])
    known, problems = parse(json.dumps({"applications": [first, entry, last]}).encode())
    assert (ids(known), problems) == (["game", "z"], [says])
    assert known.authenticate(application_id="game", secret=OLD) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_secrets_are_a_good_entry(count):
    entry = {"id": "demo", "secrets": [{"sha256": "Aa" * 32}] * count}
    known, problems = parse(json.dumps({"applications": [entry]}).encode())
    assert known.by_id == {"demo": Application("demo", (Secret(b"\xaa" * 32),) * count)}
    assert problems == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "the file is not valid JSON", id="empty"),
        pytest.param(b'{"applications": [', "the file is not valid JSON", id="half-written"),
        pytest.param(b"\xff", "the file is not UTF-8", id="not-utf-8"),
        pytest.param(b"[]", "the file is not a JSON object", id="list"),
        pytest.param(b'{"applications": [], "applications": []}', "the file has a duplicate key", id="twice"),
        pytest.param(b"{}", 'the file has no list "applications"', id="no-applications"),
        pytest.param(b'{"applications": {}}', 'the file has no list "applications"', id="applications-object"),
    ],
)
def test_a_file_that_says_nothing_is_refused(data, says):
    assert ids(parse(b'{"applications": []}')[0]) == []
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
        parse(data)


# --- the source


def source_of(**changes):
    return ApplicationsFile(Settings(issuer="https://game.example", **changes))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "applications.json"
    path.write_bytes(dump(applications(game=[OLD], demo=[NEW])))
    return path


def test_one_application_from_the_environment_is_there_at_once_and_never_changes():
    source = source_of(application_id="game", secret_key=Secret.of(OLD))
    assert source.refresh() is False
    assert ids(source.load()) == ["game"]
    assert source.applications.authenticate(application_id="game", secret=OLD) == 0


def test_several_applications_come_from_a_file(path):
    source = source_of(applications=path)
    known = source.load()
    assert known.authenticate(application_id="game", secret=OLD) == 0
    assert known.authenticate(application_id="demo", secret=NEW) == 0


def test_the_file_is_taken_in_again_when_its_content_changes_and_only_then(path):
    source = source_of(applications=path)
    assert source.refresh() is True
    before = source.applications
    os.utime(path, (1, 1))
    path.write_bytes(path.read_bytes())
    assert source.refresh() is False
    assert source.applications is before
    path.write_bytes(dump(applications(game=[OLD, NEW])))
    assert source.refresh() is True
    assert source.applications.authenticate(application_id="game", secret=NEW) == 1
    assert ids(source.applications) == ["game"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-10]), "the file is not valid JSON", id="half-written"),
        pytest.param(lambda p: p.write_bytes(b""), "the file is not valid JSON", id="emptied"),
        pytest.param(lambda p: p.unlink(), "cannot be read (No such file or directory)", id="gone"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), "cannot be read (Is a directory)", id="a-directory"),
    ],
)
def test_a_file_that_says_nothing_leaves_the_applications_of_before(path, spoil, says):
    source = source_of(applications=path)
    before = source.load()
    spoil(path)
    assert source.refresh() is True
    assert source.applications is before
    assert source.problems == (f"{path}: {says}",)
    assert source.refresh() is False
    assert source.problems == (f"{path}: {says}",)


def test_a_repaired_file_removes_its_problem(path):
    source, good = source_of(applications=path), path.read_bytes()
    source.load()
    path.write_bytes(good[:-10])
    source.refresh()
    path.write_bytes(good)
    assert source.refresh() is True
    assert source.problems == ()
    assert ids(source.applications) == ["game", "demo"]


def test_a_bad_entry_is_shown_and_the_others_take_effect(path):
    source = source_of(applications=path)
    source.load()
    document = json.loads(dump(applications(game=[NEW], demo=[NEW])))
    document["applications"][1]["secrets"] = []
    path.write_text(json.dumps(document))
    assert source.refresh() is True
    assert source.problems == (f"{path}: {BAD}",)
    assert ids(source.applications) == ["game"]
    assert source.applications.authenticate(application_id="game", secret=NEW) == 0
    assert is_refused(source.applications, "demo", NEW)


def test_a_start_needs_every_entry_to_be_good(path):
    assert ids(source_of(applications=path).load()) == ["game", "demo"]
    path.write_bytes(json.dumps({"applications": [{}, {}]}).encode())
    first = BAD.replace("2", "1", 1)
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(f'{path}: {first}; {path}: {BAD}')}$") as caught:
        source_of(applications=path).load()
    assert caught.value.hint == "repair the file or restore it, or correct the setting that names it"


def test_a_start_needs_an_application(path):
    assert ids(source_of(applications=path).load()) == ["game", "demo"]
    path.write_bytes(dump(Applications()))
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(f'{path}: no application')}$") as caught:
        source_of(applications=path).load()
    assert caught.value.hint == "add one: verifier applications add ID"


def test_a_start_needs_the_file(tmp_path):
    path = tmp_path / "missing.json"
    says = f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
        source_of(applications=path).load()


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        pytest.param(OLD, OLD, id="no-newline"),
        pytest.param(OLD + "\n", OLD, id="newline"),
        pytest.param(OLD + "\r\n", OLD, id="crlf"),
        pytest.param(OLD + "\n\n", OLD + "\n", id="two-newlines-lose-one"),
        pytest.param(" " + OLD + " \n", " " + OLD + " ", id="spaces-stay"),
        pytest.param("\n" + OLD, "\n" + OLD, id="newline-before-stays"),
        pytest.param("pässwörd-0123456789\n", "pässwörd-0123456789", id="utf-8"),
    ],
)
def test_a_secret_file_is_the_secret_without_the_newline_at_its_end(tmp_path, content, secret):
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    known = source_of(application_id="game", secret_key_file=path).load()
    assert known.authenticate(application_id="game", secret=secret) == 0
    assert known.weaknesses() == Applications([Application("game", (Secret.of(secret),))]).weaknesses()


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", CANARY.encode() + b"\xff", CANARY.encode() + b"\xed\xa0\x80"])
def test_a_secret_file_that_is_empty_or_not_utf_8_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(OLD.encode())
    source = source_of(application_id="game", secret_key_file=path)
    before = source.load()
    path.write_bytes(content)
    assert source.refresh() is True
    assert source.applications is before
    says = "is not UTF-8" if CANARY.encode() in content else "the secret is empty or not UTF-8"
    assert source.problems == (f"{path}: {says}",)
    with pytest.raises(ConfigError, match=f"(?m){re.escape(says)}$"):
        source.load()


def test_a_secret_file_is_read_again(tmp_path):
    path = tmp_path / "secret"
    path.write_text(OLD)
    source = source_of(application_id="game", secret_key_file=path)
    source.load()
    path.write_text(NEW)
    assert source.refresh() is True
    assert source.applications.authenticate(application_id="game", secret=NEW) == 0
    assert is_refused(source.applications, "game", OLD)


# --- nothing is shown


def test_no_secret_or_digest_is_in_the_words_of_anything(tmp_path):
    path = tmp_path / "secret"
    path.write_text(CANARY)
    source = source_of(application_id="game", secret_key_file=path)
    known = source.load()
    digest = hashlib.sha256(CANARY.encode()).digest()
    application = known.by_id["game"]
    words = [repr(source), repr(known), repr(application), str(application), repr(application.secrets)]
    assert repr(application) == "Application(id='game')"
    for act in (
        lambda: add_secret(known, "game", Secret.of(CANARY)),
        lambda: remove_secret(known, "game", 1),
        lambda: known.authenticate(application_id="game", secret=CANARY + "x"),
        lambda: parse(dump(known)[:-9]),
    ):
        with pytest.raises((UnsafeOperationError, InvalidClient, ConfigError)) as caught:
            act()
        words += [str(caught.value), repr(caught.value), getattr(caught.value, "hint", "")]
    for text in words:
        assert CANARY not in text
        assert digest.hex() not in text
        assert repr(digest) not in text


def test_an_application_cannot_be_changed():
    application = applications(game=[OLD]).by_id["game"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        application.secrets = ()
    assert not hasattr(application, "__dict__")


def test_nothing_is_there_before_the_first_look(path):
    source = source_of(applications=path)
    assert source.applications.by_id == {}
    assert source.problems == ()


@pytest.mark.parametrize("name", [" game", "game\u200b", '"game"'])
def test_an_id_with_invisible_characters_is_named_in_its_entry(name):
    document = {"applications": [{"id": name, "secrets": [{"sha256": "0" * 64}]}]}
    known, problems = parse(json.dumps(document).encode())
    assert (known.by_id, problems) == ({}, [f"the id of entry 1 {describe_flaw(name)}"])
