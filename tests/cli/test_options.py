"""Options that several commands share: what they accept, and what they say about the rest."""

import json

import click
import pytest
from click.testing import CliRunner

from verifier.cli import options
from verifier.core import times
from verifier.server.settings import Settings


def invoke(decorator, *arguments, **environment):
    """The values that a command with these options gets, or the usage error."""

    @click.command()
    @decorator
    def command(**values):
        click.echo(json.dumps(values, default=str))

    environment = {option.variable: "" for option in Settings.options()} | environment
    done = CliRunner().invoke(command, list(map(str, arguments)), env=environment)
    assert done.exit_code in (0, 2)
    return json.loads(done.output) if done.exit_code == 0 else done.output.splitlines()[-1]


number = click.option("--n", type=options.Number(1, 9), envvar="VERIFIER_PORT", show_envvar=True)
duration = click.option("--for", type=options.DURATION)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("9", 9)])
def test_a_number_within_its_limits_is_accepted(text, value):
    assert invoke(number, "--n", text) == {"n": value}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", "0 is not in the range 1<=x<=9."),
        ("10", "10 is not in the range 1<=x<=9."),
        ("abc", "'abc' is not a valid integer."),
        ("1.5", "'1.5' is not a valid integer."),
    ],
)
def test_another_number_is_a_usage_error(text, says):
    expected = f"Error: Invalid value for '--n' (env var: 'VERIFIER_PORT'): {says}"
    assert invoke(number, "--n", text) == invoke(number, VERIFIER_PORT=text) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("30m", 1800), ("1h", 3600), ("90m", 5400), ("400d", 34_560_000)]
)
def test_a_duration_has_a_number_and_a_unit(text, seconds):
    assert invoke(duration, "--for", text) == {"for": seconds}
    assert invoke(duration, "--for", times.duration(seconds)) == {"for": seconds}


@pytest.mark.parametrize("text", ["", "1", "90", "h", "-1h", "1.5h", "1 h", "1w", "٣h", "1234567890s"])
def test_another_duration_is_a_usage_error(text):
    says = "Error: Invalid value for '--for': expected a whole number and a unit: 90s, 30m, 1h, 90d"
    assert invoke(duration, "--for", text) == says


def test_the_key_directory_is_given_by_option_variable_or_default():
    assert invoke(options.keys_option) == {"keys": "keys"}
    assert invoke(options.keys_option, VERIFIER_KEYS="/keys") == {"keys": "/keys"}
    assert invoke(options.keys_option, "--keys", "other", VERIFIER_KEYS="/keys") == {"keys": "other"}


def test_the_issuer_and_the_application_of_a_token_are_required():
    values = {"issuer": "https://game.example", "application_id": "app", "keys": "keys"}
    given = {"VERIFIER_ISSUER": "https://game.example", "VERIFIER_APPLICATION_ID": "app"}
    assert invoke(options.token_options, **given) == values
    for name in given:
        assert "Missing option" in invoke(options.token_options, **given | {name: ""})


@pytest.mark.parametrize("word", ["max_lifetime", "leeway"])
def test_a_setting_of_the_server_has_its_variable_its_default_and_its_limits_here(word):
    setting = next(option for option in Settings.options() if option.word == word)
    low, high = setting.low, setting.high
    option = options.setting_option(word)
    assert invoke(option) == {word: setting.default}
    for value in (low, high):
        assert invoke(option, **{setting.variable: str(value)}) == {word: value}
    for value in (low - 1, high + 1):
        says = invoke(option, f"--{word.replace('_', '-')}", value)
        assert says.endswith(f"{value} is not in the range {low}<=x<={high}.")


def test_the_overlap_of_two_keys_has_a_lifetime_and_a_leeway():
    found = invoke(options.window_options, "--max-lifetime", 60, VERIFIER_LEEWAY="5")
    assert found == {"window": "OverlapPolicy(max_lifetime_s=60, leeway_s=5)"}


def test_json_is_off_by_default():
    assert invoke(options.json_option) == {"as_json": False}
    assert invoke(options.json_option, "--json") == {"as_json": True}


def test_the_applications_file_is_given_by_option_variable_or_default():
    assert invoke(options.file_option) == {"path": "applications.json"}
    assert invoke(options.file_option, VERIFIER_APPLICATIONS="a.json") == {"path": "a.json"}
    assert invoke(options.file_option, "--file", "b.json", VERIFIER_APPLICATIONS="a.json") == {"path": "b.json"}


def test_json_is_printed_with_an_indent(capsys):
    options.print_json({"a": [1]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1\n  ]\n}\n'
