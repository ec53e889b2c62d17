"""The account that a line of the history names."""

import getpass
import os

import pytest

from verifier.rotation.events import user_name


@pytest.mark.parametrize(
    ("account", "shown"),
    [("ann", "ann"), ("zoë", "zoë"), ("ann\udcff", r"ann\xff"), ("a" * 256, "a" * 256), ("a" * 257, "a" * 256)],
)
def test_the_account_is_named_in_utf_8_and_at_most_256_characters(monkeypatch, account, shown):
    monkeypatch.setattr(getpass, "getuser", lambda: account)
    assert user_name() == shown


@pytest.mark.parametrize("error", [OSError, KeyError])
def test_an_account_without_a_name_has_its_number(monkeypatch, error):
    def getuser() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert user_name() == str(os.getuid())
