"""What git says about a key directory, and where it has no answer."""

import pytest

from tests.rotation.test_tampering import committed_keys as committed_keys  # a fixture
from tests.rotation.test_tampering import repository as repository  # a fixture
from verifier.rotation import witness


@pytest.mark.parametrize(("limit", "problems"), [(4, ()), (3, ("more than 3 commits changed the history",))])
def test_a_history_with_more_commits_than_are_read_has_no_witness(repository, monkeypatch, limit, problems):
    monkeypatch.setattr(witness, "MAX_COMMITS", limit)
    found = witness.query(repository.keys, repository.log.read_bytes())
    assert found.problems == problems
    assert found.clean is (None if problems else True)
    assert len(found.lines) == (0 if problems else len(repository.log.read_bytes().splitlines()))


@pytest.mark.parametrize(
    ("name", "private"),
    [
        ("private/a.pem", True),
        ("private/notes", True),
        ("private/README.md", False),
        ("private/.gitignore", False),
        ("public/a.pem", True),
        ("old/A.P12", True),
        ("public/a.json", False),
        ("public/private", False),
    ],
)
def test_a_private_key_is_known_by_its_folder_or_its_suffix(name, private):
    assert witness._is_private(name) is private
