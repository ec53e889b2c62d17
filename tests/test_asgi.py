"""The application that ASGI servers import."""

import importlib
import sys

import pytest


@pytest.fixture
def import_app(monkeypatch, environment):
    def import_app(**changes):
        for name, value in (environment | changes).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "verifier.asgi", raising=False)
        return importlib.import_module("verifier.asgi").app

    return import_app


def test_the_application_has_the_settings_of_the_environment(import_app):
    assert {route.path for route in import_app().routes} >= {"/profile", "/healthz", "/readyz"}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"VERIFIER_ISSUER": ""},
            [
                "verifier: error: VERIFIER_ISSUER is not set (expected the iss of your tokens)",
                "verifier: hint: use what the game backend writes as iss, for instance https://game.example",
            ],
        ),
        (
            {"VERIFIER_LEEWAY": "61"},
            ["verifier: error: VERIFIER_LEEWAY is out of range (expected a whole number from 0 to 60)"],
        ),
    ],
)
def test_an_invalid_setting_ends_the_process_with_its_name(import_app, capsys, changes, lines):
    with pytest.raises(SystemExit) as end:
        import_app(**changes)
    assert end.value.code == 3
    assert capsys.readouterr().err.splitlines() == lines
