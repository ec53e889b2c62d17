"""The exceptions: status, code, text and headers of each response, and the table of reasons."""

import re
import traceback

import pytest

from verifier import errors
from verifier.errors import (
    ApiError,
    ConfigError,
    InternalError,
    InvalidClient,
    InvalidRequest,
    InvalidToken,
    IssueError,
    KeyFileError,
    Reason,
    ServiceUnavailableError,
    UnsafeOperationError,
    VerifierError,
)


def challenge(error: str, text: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"www-authenticate", f'Bearer error="{error}", error_description="{text}"'.encode()),)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(
            InvalidRequest(Reason.BODY_EMPTY), (400, "invalid_request", "the body is empty", ()), id="request"
        ),
        pytest.param(
            InvalidRequest(Reason.METHOD_NOT_ALLOWED, ((b"allow", b"POST"),), methods="POST"),
            (405, "invalid_request", "method not allowed (use POST)", ((b"allow", b"POST"),)),
            id="request-with-header-and-detail",
        ),
        pytest.param(
            ServiceUnavailableError(Reason.SHUTTING_DOWN),
            (503, "temporarily_unavailable", "the server is shutting down", ((b"retry-after", b"1"),)),
            id="unavailable",
        ),
        pytest.param(InternalError(), (500, "server_error", "internal error", ()), id="internal"),
        pytest.param(
            InvalidClient(),
            (
                401,
                "invalid_client",
                "unknown application or wrong secret",
                challenge("invalid_client", "unknown application or wrong secret"),
            ),
            id="client",
        ),
        pytest.param(
            InvalidToken(Reason.LIFETIME_TOO_LONG, limit=300),
            (
                401,
                "invalid_token",
                "token lifetime exceeds the maximum of 300 s",
                challenge("invalid_token", "token lifetime exceeds the maximum of 300 s"),
            ),
            id="token",
        ),
    ],
)
def test_an_error_carries_status_code_text_and_headers(error, expected):
    assert isinstance(error, ApiError)
    assert (error.status, error.code, str(error), error.headers) == expected


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_has_a_stable_name_a_status_and_a_text_that_a_header_can_carry(reason):
    assert reason.value == reason.name.lower()
    assert 400 <= reason.status <= 599
    assert re.fullmatch(r"[ !#-\[\]-~]+", reason.text)  # RFC 6749 §5.2
    assert set(re.findall(r"{(\w*)}", reason.text)) <= {"limit", "methods"}


def test_no_two_reasons_have_one_text():
    assert len({reason.text for reason in Reason}) == len(Reason)


@pytest.mark.parametrize("kind", [ConfigError, KeyFileError, UnsafeOperationError])
def test_a_configuration_error_may_carry_a_hint(kind):
    assert isinstance(kind("what"), ConfigError)
    assert (str(kind("what")), kind("what").hint) == ("what", "")
    assert (str(kind("what", "fix")), kind("what", "fix").hint) == ("what", "fix")


def test_every_exception_of_the_package_has_one_base():
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(classes) > 10
    assert all(issubclass(kind, VerifierError) for kind in classes)


def test_a_token_that_cannot_be_issued_is_a_value_error():
    assert issubclass(IssueError, ValueError)


@pytest.mark.parametrize("kind", [ConfigError, KeyFileError, UnsafeOperationError])
def test_a_traceback_shows_the_hint_of_an_error_and_its_text_does_not(kind):
    error = kind("keys: no such folder", hint="create it")
    assert str(error) == "keys: no such folder"
    assert traceback.format_exception_only(error) == [
        f"verifier.errors.{kind.__name__}: keys: no such folder\n",
        "hint: create it\n",
    ]
    assert traceback.format_exception_only(kind("no hint")) == [f"verifier.errors.{kind.__name__}: no hint\n"]
