"""Changes of the secrets of applications: which are refused, and the file that they write."""

import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.core.applications import Application, Applications, Secret, parse
from verifier.core.encoding import describe_flaw
from verifier.errors import InvalidClient, UnsafeOperationError
from verifier.rotation.secret_changes import add_secret, dump, remove_secret

OLD, NEW = "the-old-secret-0123", "the-new-secret-0123"


def applications(**secrets):
    return Applications(Application(name, tuple(map(Secret.of, texts))) for name, texts in secrets.items())


def is_refused(known, application_id, secret):
    with pytest.raises(InvalidClient):
        known.authenticate(application_id=application_id, secret=secret)
    return True


def ids(known):
    return list(known.by_id)


def test_a_secret_is_added_and_the_set_of_before_stays_as_it_was():
    before = applications(game=[OLD])
    after = add_secret(before, "game", Secret.of(NEW))
    assert after.authenticate(application_id="game", secret=OLD) == 0
    assert after.authenticate(application_id="game", secret=NEW) == 1
    assert is_refused(before, "game", NEW)


def test_the_first_secret_of_an_application_makes_it_known():
    after = add_secret(applications(game=[OLD]), "demo", Secret.of(NEW))
    assert ids(after) == ["game", "demo"]
    assert after.authenticate(application_id="demo", secret=NEW) == 0


def test_a_secret_changes_without_a_refused_player():
    known = applications(game=[OLD])
    known = add_secret(known, "game", Secret.of(NEW))
    known = remove_secret(known, "game", 1)
    assert known.authenticate(application_id="game", secret=NEW) == 0
    assert is_refused(known, "game", OLD)
    known = remove_secret(add_secret(known, "game", Secret.of(OLD)), "game", 2)
    assert known.authenticate(application_id="game", secret=NEW) == 0


@pytest.mark.parametrize(
    ("application_id", "secret", "says", "hint"),
    [
        pytest.param("", "third", "the application id is empty", "", id="no-id"),
        pytest.param("a ", "third", "the application id begins or ends with a space", "", id="id-with-a-space"),
        pytest.param("a\udcff", "third", "the application id is not UTF-8", "", id="id-not-utf-8"),
        pytest.param("game", NEW, "application game has this secret already", "", id="there-already"),
        pytest.param(
            "game",
            "third",
            "application game has 2 active secrets already",
            "remove one first: verifier applications remove-secret game --slot 1",
            id="third",
        ),
    ],
)
def test_a_secret_that_cannot_be_added_is_refused(application_id, secret, says, hint):
    known = applications(game=[OLD, NEW])
    assert ids(add_secret(known, "demo", Secret.of("third"))) == ["game", "demo"]
    with pytest.raises(UnsafeOperationError, match=f"(?m)^{re.escape(says)}$") as caught:
        add_secret(known, application_id, Secret.of(secret))
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("application_id", "slot", "says", "hint"),
    [
        pytest.param("demo", 1, "application demo is unknown", "verifier applications list", id="unknown"),
        pytest.param("game", 0, "application game has no secret in slot 0", "", id="slot-0"),
        pytest.param("game", 3, "application game has no secret in slot 3", "", id="slot-3"),
        pytest.param("one", 2, "application one has no secret in slot 2", "", id="empty-slot"),
        pytest.param(
            "one",
            1,
            "the only secret of application one cannot be removed: every sign-in would be refused",
            "accept the next one first: verifier applications rotate-secret one",
            id="only-secret",
        ),
    ],
)
def test_a_secret_that_cannot_be_removed_is_refused(application_id, slot, says, hint):
    known = applications(game=[OLD, NEW], one=[OLD])
    assert ids(remove_secret(known, "game", 1)) == ids(remove_secret(known, "game", 2)) == ["game", "one"]
    with pytest.raises(UnsafeOperationError, match=f"(?m)^{re.escape(says)}$") as caught:
        remove_secret(known, application_id, slot)
    assert caught.value.hint == hint


def test_an_applications_file_holds_ids_digests_and_weaknesses():
    data = dump(applications(game=[OLD, "short"]))
    assert json.loads(data) == {
        "applications": [
            {
                "id": "game",
                "secrets": [
                    {"sha256": hashlib.sha256(OLD.encode()).hexdigest()},
                    {"sha256": hashlib.sha256(b"short").hexdigest(), "weakness": "shorter than 16 characters"},
                ],
            }
        ]
    }
    assert data.endswith(b"}\n")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(
    st.dictionaries(
        names.filter(lambda name: not describe_flaw(name)), st.lists(names, min_size=1, max_size=2), max_size=4
    )
)
@settings(deadline=None, max_examples=40)
def test_applications_survive_the_way_to_a_file_and_back(secrets):
    known = Applications(Application(name, tuple(map(Secret.of, texts))) for name, texts in secrets.items())
    again, problems = parse(dump(known))
    assert (again.by_id, problems) == (known.by_id, [])


def test_the_file_is_written_for_people_to_read():
    digest = hashlib.sha256(b"short").hexdigest()
    assert dump(applications(game=["short"])).decode().splitlines() == [
        "{",
        '  "applications": [',
        "    {",
        '      "id": "game",',
        '      "secrets": [',
        "        {",
        f'          "sha256": "{digest}",',
        '          "weakness": "shorter than 16 characters"',
        "        }",
        "      ]",
        "    }",
        "  ]",
        "}",
    ]
