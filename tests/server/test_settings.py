"""What an operator can set: every variable, its default, its limits, and what is said of a bad value."""

import hashlib
import os
import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from verifier.cli.serve import serve
from verifier.core.applications import Secret
from verifier.errors import ConfigError
from verifier.server import settings as settings_module
from verifier.server.settings import Settings
from verifier.storage.snapshot import secret_of_file

CANARY = "canary-canary-canary"
SECRET = "secret-of-application-1"
LEAST = {
    "VERIFIER_ISSUER": "https://game.example",
    "VERIFIER_APPLICATION_ID": "application-1",
    "VERIFIER_SECRET_KEY": SECRET,
}
SEVERAL = {"VERIFIER_ISSUER": "https://game.example", "VERIFIER_APPLICATIONS": "applications.json"}


def values(settings):
    """Every setting by its field."""
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "warnings"}


def refusal(environ):
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment(environ)
    return str(caught.value), caught.value.hint


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


# --- what is taken


def test_the_least_that_is_needed_leaves_the_rest_at_its_default():
    assert values(Settings.from_environment(LEAST)) == {
        "issuer": "https://game.example",
        "keys": Path("keys"),
        "applications": None,
        "application_id": "application-1",
        "secret_key": Secret(hashlib.sha256(SECRET.encode()).digest()),
        "secret_key_file": None,
        "max_lifetime_s": 300,
        "leeway_s": 30,
        "host": "127.0.0.1",
        "port": 8000,
        "workers": 1,
        "metrics_port": 0,
        "max_connections": 4000,
        "max_requests": 2500,
        "max_body_bytes": 16_384,
        "body_timeout_s": 5,
        "header_timeout_s": 5,
        "keep_alive_s": 75,
        "graceful_shutdown_s": 8,
        "max_staleness_s": 300,
        "log_level": "info",
        "log_format": "",
    }


def test_every_variable_is_taken():
    environ = {
        "VERIFIER_ISSUER": "urn:game",
        "VERIFIER_KEYS": "/etc/verifier/keys",
        "VERIFIER_APPLICATION_ID": "a",
        "VERIFIER_SECRET_KEY_FILE": "/run/secrets/escs",
        "VERIFIER_MAX_LIFETIME": "60",
        "VERIFIER_LEEWAY": "5",
        "VERIFIER_HOST": "::",
        "VERIFIER_PORT": "8080",
        "VERIFIER_WORKERS": "4",
        "VERIFIER_MAX_CONNECTIONS": "10",
        "VERIFIER_MAX_REQUESTS": "9",
        "VERIFIER_MAX_BODY": "2048",
        "VERIFIER_BODY_TIMEOUT": "8",
        "VERIFIER_HEADER_TIMEOUT": "7",
        "VERIFIER_KEEP_ALIVE": "6",
        "VERIFIER_GRACEFUL_SHUTDOWN": "4",
        "VERIFIER_MAX_STALENESS": "60",
        "VERIFIER_LOG_LEVEL": "warning",
        "VERIFIER_LOG_FORMAT": "text",
    }
    assert values(Settings.from_environment(environ)) == {
        "issuer": "urn:game",
        "keys": Path("/etc/verifier/keys"),
        "applications": None,
        "application_id": "a",
        "secret_key": None,
        "secret_key_file": Path("/run/secrets/escs"),
        "max_lifetime_s": 60,
        "leeway_s": 5,
        "host": "::",
        "port": 8080,
        "workers": 4,
        "metrics_port": 0,
        "max_connections": 10,
        "max_requests": 9,
        "max_body_bytes": 2048,
        "body_timeout_s": 8,
        "header_timeout_s": 7,
        "keep_alive_s": 6,
        "graceful_shutdown_s": 4,
        "max_staleness_s": 60,
        "log_level": "warning",
        "log_format": "text",
    }


def test_a_file_with_several_applications_stands_in_for_the_only_one():
    settings = Settings.from_environment(SEVERAL)
    assert (settings.applications, settings.application_id, settings.secret_key, settings.secret_key_file) == (
        Path("applications.json"),
        "",
        None,
        None,
    )


def test_an_empty_variable_counts_as_not_set():
    names = ["KEYS", "APPLICATIONS", "SECRET_KEY_FILE", "MAX_LIFETIME", "LEEWAY", "HOST", "PORT", "WORKERS"]
    empty = {f"VERIFIER_{name}": "" for name in names}
    assert Settings.from_environment(LEAST | empty) == Settings.from_environment(LEAST)


def test_other_variables_do_not_matter():
    others = {"PATH": "/bin\udcff", "VERIFIER": "1", "verifier_port": "x", "MY_VERIFIER_PORT": "x"}
    assert Settings.from_environment(LEAST | others) == Settings.from_environment(LEAST)


def test_settings_cannot_be_changed():
    settings = Settings.from_environment(LEAST)
    with pytest.raises(FrozenInstanceError):
        settings.leeway_s = 3600


# --- numbers

RANGES = [
    pytest.param("VERIFIER_MAX_LIFETIME", "max_lifetime_s", 1, 3600, id="max-lifetime"),
    pytest.param("VERIFIER_LEEWAY", "leeway_s", 0, 60, id="leeway"),
    pytest.param("VERIFIER_PORT", "port", 0, 65535, id="port"),
    pytest.param("VERIFIER_MAX_CONNECTIONS", "max_connections", 1, 100_000, id="max-connections"),
    pytest.param("VERIFIER_MAX_REQUESTS", "max_requests", 1, 100_000, id="max-requests"),
    pytest.param("VERIFIER_MAX_BODY", "max_body_bytes", 1024, 1_048_576, id="max-body"),
    pytest.param("VERIFIER_BODY_TIMEOUT", "body_timeout_s", 1, 60, id="body-timeout"),
    pytest.param("VERIFIER_HEADER_TIMEOUT", "header_timeout_s", 1, 60, id="header-timeout"),
    pytest.param("VERIFIER_KEEP_ALIVE", "keep_alive_s", 1, 3600, id="keep-alive"),
    pytest.param("VERIFIER_GRACEFUL_SHUTDOWN", "graceful_shutdown_s", 1, 300, id="graceful-shutdown"),
    pytest.param("VERIFIER_MAX_STALENESS", "max_staleness_s", 10, 86_400, id="max-staleness"),
    pytest.param("VERIFIER_METRICS_PORT", "metrics_port", 0, 65535, id="metrics-port"),
    pytest.param("VERIFIER_WORKERS", "workers", 1, 64, id="workers"),
]


@pytest.mark.parametrize(("name", "field", "low", "high"), RANGES)
def test_the_first_and_the_last_number_of_a_range_are_taken(name, field, low, high):
    assert getattr(Settings.from_environment(LEAST | {name: str(low)}), field) == low
    assert getattr(Settings.from_environment(LEAST | {name: str(high)}), field) == high


@pytest.mark.parametrize(("name", "field", "low", "high"), RANGES)
def test_a_number_beside_the_range_is_refused(name, field, low, high):
    says = f"{name} is out of range (expected a whole number from {low} to {high})"
    assert refusal(LEAST | {name: str(low - 1)}) == (says, "")
    assert refusal(LEAST | {name: str(high + 1)}) == (says, "")


@pytest.mark.parametrize(
    "text",
    [" 30", "30 ", "30\r", "+30", "3_0", "3e1", "30.0", "0x1e", "٣٠", "³", "30s", '"30"', "http://x", CANARY],
)
@pytest.mark.parametrize(("name", "field", "low", "high"), RANGES)
def test_what_is_not_a_plain_number_is_refused_and_not_shown(name, field, low, high, text):
    assert getattr(Settings.from_environment(LEAST | {name: str(high)}), field) == high
    says = f"{name} is not a number (expected a whole number from {low} to {high})"
    assert refusal(LEAST | {name: text}) == (says, "")


@pytest.mark.parametrize("text", ["1" * 5000, "0" * 10, "-0", "-1"])
@pytest.mark.parametrize(("name", "field", "low", "high"), RANGES)
def test_a_number_with_a_sign_or_too_many_digits_is_out_of_range(name, field, low, high, text):
    says = f"{name} is out of range (expected a whole number from {low} to {high})"
    assert refusal(LEAST | {name: text}) == (says, "")


# --- what must be there


def test_an_issuer_is_needed():
    expected = (
        "VERIFIER_ISSUER is not set (expected the iss of your tokens)",
        "use what the game backend writes as iss, for instance https://game.example",
    )
    assert refusal(without(LEAST, "VERIFIER_ISSUER")) == expected
    assert refusal(LEAST | {"VERIFIER_ISSUER": ""}) == expected


SOURCE = "exactly one of VERIFIER_APPLICATIONS, VERIFIER_SECRET_KEY and VERIFIER_SECRET_KEY_FILE must be set"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param({"VERIFIER_SECRET_KEY": ""}, "none", id="none"),
        pytest.param(
            {"VERIFIER_SECRET_KEY_FILE": "file"},
            "VERIFIER_SECRET_KEY and VERIFIER_SECRET_KEY_FILE",
            id="secret-and-file",
        ),
        pytest.param(
            {"VERIFIER_APPLICATIONS": "file"}, "VERIFIER_APPLICATIONS and VERIFIER_SECRET_KEY", id="several-and-one"
        ),
        pytest.param(
            {"VERIFIER_APPLICATIONS": "file", "VERIFIER_SECRET_KEY_FILE": "file"},
            "VERIFIER_APPLICATIONS and VERIFIER_SECRET_KEY and VERIFIER_SECRET_KEY_FILE",
            id="all",
        ),
    ],
)
def test_exactly_one_source_of_secrets_is_needed(changes, found):
    text, hint = refusal(LEAST | changes)
    assert text == f"{SOURCE} (found {found})"
    assert hint == (
        "for one application set VERIFIER_APPLICATION_ID and VERIFIER_SECRET_KEY_FILE; "
        "for several set VERIFIER_APPLICATIONS to the file that verifier applications add ID creates"
    )


HINT = "remove them from the value; Docker does not strip quotes or \\r in an env file"
TEXTS = ["VERIFIER_ISSUER", "VERIFIER_APPLICATION_ID", "VERIFIER_KEYS", "VERIFIER_HOST"]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(f"{CANARY}\r", "contains an unprintable character (U+000D at position 21)", id="carriage-return"),
        pytest.param(f"\ufeff{CANARY}", "contains an unprintable character (U+FEFF at position 1)", id="bom"),
        pytest.param(f"{CANARY}\u200b", "contains an unprintable character (U+200B at position 21)", id="zero-width"),
        pytest.param(f"a\u202e{CANARY}", "contains an unprintable character (U+202E at position 2)", id="bidi"),
        pytest.param(
            f"{CANARY}\u00a0", "contains an unprintable character (U+00A0 at position 21)", id="no-break-space"
        ),
        pytest.param(f"{CANARY}\u3164", "contains an unprintable character (U+3164 at position 21)", id="filler"),
        pytest.param(f"{CANARY}\ufe0f", "contains an unprintable character (U+FE0F at position 21)", id="selector"),
        pytest.param(f"{CANARY}\n", "contains an unprintable character (U+000A at position 21)", id="newline"),
        pytest.param(f" {CANARY}", "begins or ends with a space", id="space-before"),
        pytest.param(f"{CANARY} ", "begins or ends with a space", id="space-after"),
        pytest.param(f'"{CANARY}"', "is in quotes", id="double-quotes"),
        pytest.param(f"'{CANARY}'", "is in quotes", id="single-quotes"),
        pytest.param(f"\u201c{CANARY}\u201d", "is in quotes", id="typographic-quotes"),
    ],
)
def test_a_value_that_looks_like_another_one_is_refused_and_not_shown(name, value, says):
    assert refusal(LEAST | {name: value}) == (f"{name} {says}", HINT)


def test_visible_characters_of_any_language_are_taken():
    for value in ("https://sp\u00edl.example", "\u30b2\u30fc\u30e0 1", "it's", '"', 'a"b'):
        assert Settings.from_environment(LEAST | {"VERIFIER_ISSUER": value}).issuer == value


def test_settings_that_are_written_in_code_are_checked_too():
    with pytest.raises(ConfigError, match=r"(?m)^issuer begins or ends with a space$"):
        Settings(issuer=" x", application_id="a", secret_key=Secret.of(SECRET))
    with pytest.raises(ConfigError, match=r"(?m)^keys contains an unprintable character \(U\+000D at position 5\)$"):
        Settings(issuer="x", keys=Path("keys\r"))


@pytest.mark.parametrize("source", ["VERIFIER_SECRET_KEY", "VERIFIER_SECRET_KEY_FILE"])
def test_a_secret_needs_an_application_id(source):
    environ = without(LEAST, "VERIFIER_SECRET_KEY") | {source: SECRET}
    assert Settings.from_environment(environ).application_id == "application-1"
    assert refusal(without(environ, "VERIFIER_APPLICATION_ID")) == (
        f"VERIFIER_APPLICATION_ID is not set (expected beside {source})",
        "the escs dashboard shows it beside the secret",
    )


@pytest.mark.parametrize("value", ["a", "", "a\r"])
def test_beside_a_file_of_applications_the_id_of_one_is_ignored(value):
    assert Settings.from_environment(SEVERAL | {"VERIFIER_APPLICATION_ID": value}) == Settings.from_environment(SEVERAL)


# --- PORT of a platform


def address(**environ):
    settings = Settings.from_environment(LEAST | environ)
    return settings.host, settings.port


def test_a_platform_sets_the_port_and_expects_every_address():
    assert address(PORT="8080") == ("0.0.0.0", 8080)
    assert address(PORT="8080", VERIFIER_HOST="::1") == ("::1", 8080)
    assert address(PORT="8080", VERIFIER_PORT="9000") == ("127.0.0.1", 9000)
    assert address(PORT="", VERIFIER_PORT="") == address() == ("127.0.0.1", 8000)


@pytest.mark.parametrize("value", ["abc", "8080\r", "70000"])
def test_a_port_of_a_platform_that_is_none_is_named(value):
    assert refusal(LEAST | {"PORT": value})[0].startswith("PORT is ")


# --- variables that are no settings


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("VERIFIER_LEWAY", "VERIFIER_LEWAY is not a setting; did you mean VERIFIER_LEEWAY?"),
        ("VERIFIER_MAX_LIFETIME_S", "VERIFIER_MAX_LIFETIME_S is not a setting; did you mean VERIFIER_MAX_LIFETIME?"),
        ("VERIFIER_HEADR_TIMEOUT", "VERIFIER_HEADR_TIMEOUT is not a setting; did you mean VERIFIER_HEADER_TIMEOUT?"),
        ("VERIFIER_KEY", "VERIFIER_KEY is not a setting; did you mean VERIFIER_KEYS?"),
        ("VERIFIER_QQQ", "VERIFIER_QQQ is not a setting"),
        ("VERIFER_LEEWAY", "VERIFER_LEEWAY is not a setting; did you mean VERIFIER_LEEWAY?"),
        ("verifier_leeway", "verifier_leeway is not a setting; did you mean VERIFIER_LEEWAY?"),
        ("VERIFIER_A\x1b[2J", "'VERIFIER_A\\x1b[2J' is not a setting"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest_one(name, says):
    settings = Settings.from_environment(LEAST | {name: CANARY})
    assert settings.warnings == (says,)
    assert settings == Settings.from_environment(LEAST)


@pytest.mark.parametrize("name", ["VERIFY_TLS", "VERIFIED_BY", "verifier", "MY_VERIFIER_PORT"])
def test_a_variable_of_another_program_is_not_named(name):
    assert Settings.from_environment(LEAST | {name: "1"}).warnings == ()


def test_a_misspelt_variable_that_is_needed_is_the_hint():
    environ = without(LEAST, "VERIFIER_ISSUER") | {"VERIFIER_ISUER": CANARY}
    assert refusal(environ)[1] == "VERIFIER_ISUER is not a setting; did you mean VERIFIER_ISSUER?"
    environ = without(LEAST, "VERIFIER_SECRET_KEY") | {"VERIFIER_SECRET": CANARY}
    assert refusal(environ)[1] == "VERIFIER_SECRET is not a setting; did you mean VERIFIER_SECRET_KEY?"


SERVICE_LINKS = {
    "VERIFIER_SERVICE_HOST": "10.0.0.1",
    "VERIFIER_SERVICE_PORT": "8000",
    "VERIFIER_SERVICE_PORT_HTTP": "8000",
    "VERIFIER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "VERIFIER_PORT_8000_TCP_PROTO": "tcp",
    "VERIFIER_PORT_8000_TCP_PORT": "8000",
    "VERIFIER_PORT_8000_TCP_ADDR": "10.0.0.1",
    "VERIFIER_METRICS_SERVICE_HOST": "10.0.0.2",
    "VERIFIER_METRICS_PORT_9000_TCP": "tcp://10.0.0.2:9000",
    "VERIFIER_DEMO_PORT": "tcp://10.0.0.3:80",
}


def test_variables_of_kubernetes_and_of_other_commands_are_no_misspelt_settings():
    others = {"VERIFIER_TOKEN": "x", "VERIFIER_SITE": "x", "VERIFIER_UPSTREAM": "x"}
    assert Settings.from_environment(LEAST | SERVICE_LINKS | others).warnings == ()


@pytest.mark.parametrize("name", ["VERIFIER_PORT", "VERIFIER_METRICS_PORT"])
def test_the_address_of_a_kubernetes_service_is_named_as_such(name):
    assert refusal(LEAST | SERVICE_LINKS | {name: "tcp://10.0.0.1:8000"}) == (
        f"{name} is the address of a Kubernetes Service, not a number",
        "set enableServiceLinks: false in the pod, or give the Service another name",
    )


# --- one definition of every setting


def test_every_field_is_a_variable_and_an_option():
    options = {option.name: option for option in Settings.options()}
    assert [*options, "warnings"] == [field.name for field in fields(Settings)]
    shown = {o.name for o in serve.params} - {"help"}
    assert shown == {o.word for o in options.values()} - {"application_id", "secret_key", "secret_key_file"}
    for option in options.values():
        assert option.help.endswith(".")


def test_an_option_wins_over_its_variable_and_has_a_type(monkeypatch, tmp_path):
    (tmp_path / "k" / "public").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = []
    monkeypatch.setattr("verifier.server.run.serve", found.append)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VERIFIER_LEEWAY", "5")
    monkeypatch.delenv("PORT", raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", dict(os.environ))
        arguments = ["--leeway", "6", "--log-level", "WARNING", "--keys", "k", "--port", "0"]
        assert CliRunner().invoke(serve, arguments).exit_code == 0
        assert os.environ["VERIFIER_LEEWAY"] == "6"  # where worker processes find it
    assert (found[0].leeway_s, found[0].log_level, found[0].keys, found[0].port) == (6, "warning", Path("k"), 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "abc"], "Invalid value for '--port': 'abc' is not a valid integer."),
        (["--port", "70000"], "Invalid value for '--port': 70000 is not in the range 0<=x<=65535."),
        (["--log-format", "xml"], "Invalid value for '--log-format': 'xml' is not one of 'json', 'text'."),
    ],
)
def test_an_option_of_the_wrong_type_is_a_usage_error(arguments, says):
    done = CliRunner().invoke(serve, arguments)
    assert (done.exit_code, says in done.output) == (2, True)


# --- nothing is shown


@pytest.mark.parametrize(
    "name",
    [
        "VERIFIER_ISSUER",
        "VERIFIER_KEYS",
        "VERIFIER_APPLICATION_ID",
        "VERIFIER_SECRET_KEY",
        "VERIFIER_SECRET_KEY_FILE",
        "VERIFIER_APPLICATIONS",
        "VERIFIER_HOST",
        "VERIFIER_LEEWAY",
        "VERIFIER_UNKNOWN",
    ],
)
def test_a_value_that_is_not_utf_8_is_refused_by_name(name):
    value = (CANARY.encode() + b"\xff").decode("utf-8", "surrogateescape")  # as os.environ gives it
    assert refusal(LEAST | {name: value}) == (f"{name} is not UTF-8", "")


def test_no_secret_or_digest_is_in_the_words_of_settings():
    settings = Settings.from_environment(LEAST | {"VERIFIER_SECRET_KEY": CANARY})
    digest = hashlib.sha256(CANARY.encode()).digest()
    for words in (repr(settings), str(settings), repr(settings.secret_key)):
        assert CANARY not in words
        assert digest.hex() not in words
        assert repr(digest) not in words
    assert repr(settings.secret_key) == "Secret(weakness='')"


@pytest.mark.parametrize(
    "changes",
    [
        {"VERIFIER_ISSUER": ""},
        {"VERIFIER_APPLICATION_ID": ""},
        {"VERIFIER_PORT": CANARY},
        {"VERIFIER_SECRET_KEY_FILE": CANARY},
        {"VERIFIER_SECRET_KEY": CANARY + "\udcff"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_refusal_shows_a_value(changes):
    text, hint = refusal(LEAST | {"VERIFIER_SECRET_KEY": CANARY} | changes)
    assert CANARY not in text + hint


# --- secrets


@pytest.mark.parametrize(
    ("text", "weakness"),
    [
        pytest.param("0123456789abcde", "shorter than 16 characters", id="15-characters"),
        pytest.param("0123456789abcdef", "", id="16-characters"),
        pytest.param("é" * 15, "shorter than 16 characters", id="15-characters-30-bytes"),
        pytest.param("é" * 16, "", id="16-characters-not-ascii"),
        pytest.param("0123456789 abcdef", "", id="white-space-inside"),
        pytest.param(" 0123456789abcdef", "white space at an end", id="white-space-before"),
        pytest.param(
            "0123456789\u200babcdef", "contains an unprintable character (U+200B at position 11)", id="inside"
        ),
        pytest.param('"0123456789abcdef"', "in quotes", id="quotes"),
        pytest.param("0123456789abcdef\n", "white space at an end", id="newline-after"),
        pytest.param(" ", "shorter than 16 characters", id="one-space"),
    ],
)
def test_a_secret_is_kept_as_a_digest_with_what_is_weak_about_it(text, weakness):
    assert Secret.of(text) == Secret(hashlib.sha256(text.encode()).digest(), weakness)


def test_a_byte_order_mark_is_not_part_of_a_secret():
    assert Secret.of(f"\ufeff{CANARY}") == Secret.of(CANARY)
    assert secret_of_file(f"\ufeff{CANARY}\r\n".encode()) == CANARY


@pytest.mark.parametrize(
    ("data", "text"), [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b"x\n\n", "x\n"), (b"\r\nx ", "\r\nx "), (b"", "")]
)
def test_a_secret_file_may_end_with_one_newline(data, text):
    assert secret_of_file(data) == text


@pytest.mark.parametrize(
    ("data", "says"),
    [(CANARY.encode("utf-16"), "is UTF-16, not UTF-8"), (CANARY.encode() + b"\xff", "is not UTF-8")],
)
def test_a_secret_file_in_another_encoding_is_named(data, says):
    with pytest.raises(ConfigError) as caught:
        secret_of_file(data)
    assert (str(caught.value), caught.value.hint) == (says, "save the file as UTF-8")


@pytest.mark.parametrize("text", ["", "\ud800" + CANARY, CANARY + "\udcff"], ids=["empty", "half-a-pair", "not-utf-8"])
def test_an_empty_secret_or_one_that_is_not_utf_8_is_refused(text):
    assert Secret.of(CANARY).weakness == ""
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape('the secret is empty or not UTF-8')}$"):
        Secret.of(text)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("VERIFIER_LOG_LEVEL", "VERIFIER_LOG_LEVEL is unknown (expected one of debug, info, warning, error)"),
        ("VERIFIER_LOG_FORMAT", "VERIFIER_LOG_FORMAT is unknown (expected one of json, text)"),
    ],
)
def test_an_unknown_choice_is_named_and_not_shown(name, says):
    assert refusal(LEAST | {name: CANARY}) == (says, "")


def test_what_is_shown_at_the_start_has_no_secret():
    assert Settings.from_environment(LEAST).to_log().keys() == {
        field.name for field in fields(Settings) if getattr(Settings.from_environment(LEAST), field.name)
    } - {"secret_key", "warnings"}


def test_what_an_embedded_endpoint_shows_at_the_start_has_an_effect_there():
    """Only the server of `verifier serve` reads the others; the metrics have an address, too."""
    server = {"run.py", "connection.py", "settings.py"}
    sources = [p.read_text() for p in Path(settings_module.__file__).parent.glob("*.py") if p.name not in server]
    used = {
        option.name
        for option in Settings.options()
        if option.kind is not Secret and any(f"settings.{option.name}" in source for source in sources)
    }
    every = replace(Settings.from_environment(LEAST | {"VERIFIER_METRICS_PORT": "9000"}), log_format="json")
    every = replace(every, applications=Path("a"), application_id="a", secret_key_file=Path("s"))
    assert every.to_log(embedded=True).keys() == used
    without_metrics = replace(every, metrics_port=0)
    assert without_metrics.to_log(embedded=True).keys() == used - {"host", "metrics_port"}


@pytest.mark.parametrize("level", ["INFO", "info", "Info"])
def test_a_choice_is_taken_in_any_case(level):
    assert Settings.from_environment(LEAST | {"VERIFIER_LOG_LEVEL": level}).log_level == "info"


def test_metrics_are_refused_beside_several_workers():
    port = LEAST | {"VERIFIER_METRICS_PORT": "9000"}
    assert Settings.from_environment(port | {"VERIFIER_WORKERS": "1"}).metrics_port == 9000
    assert Settings.from_environment(LEAST | {"VERIFIER_WORKERS": "2"}).workers == 2
    assert refusal(port | {"VERIFIER_WORKERS": "2"}) == (
        "VERIFIER_METRICS_PORT excludes several VERIFIER_WORKERS (expected one: each counts its own)",
        "run one worker per container, and as many containers as are needed",
    )
