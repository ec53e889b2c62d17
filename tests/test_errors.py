"""The refusals: status, code, headers, and one text for two causes."""

import pytest

from verifier.errors import (
    CannotIssue,
    CommandRefused,
    ConfigError,
    InvalidClient,
    InvalidRequest,
    InvalidToken,
    KeyFileError,
    Refusal,
)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        pytest.param(InvalidRequest("a phrase"), (400, "invalid_request", "a phrase", ()), id="request"),
        pytest.param(
            InvalidRequest("a phrase", status=405, headers=((b"allow", b"GET"),)),
            (405, "invalid_request", "a phrase", ((b"allow", b"GET"),)),
            id="request-with-status-and-header",
        ),
        pytest.param(
            InvalidClient(),
            (
                401,
                "invalid_client",
                "unknown application or wrong secret",
                (
                    (
                        b"www-authenticate",
                        b'Bearer error="invalid_client", error_description="unknown application or wrong secret"',
                    ),
                ),
            ),
            id="client",
        ),
        pytest.param(
            InvalidToken("a phrase"),
            (
                401,
                "invalid_token",
                "a phrase",
                ((b"www-authenticate", b'Bearer error="invalid_token", error_description="a phrase"'),),
            ),
            id="token",
        ),
    ],
)
def test_a_refusal_carries_its_status_code_text_and_headers(refusal, expected):
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, str(refusal), refusal.headers) == expected


@pytest.mark.parametrize("kind", [ConfigError, KeyFileError, CommandRefused])
def test_what_an_operator_set_up_wrong_may_come_with_a_way_out(kind):
    assert isinstance(kind("what"), ConfigError)
    assert (str(kind("what")), kind("what").hint) == ("what", "")
    assert (str(kind("what", "way out")), kind("what", "way out").hint) == ("what", "way out")


def test_a_token_that_cannot_be_issued_is_a_value_error():
    assert issubclass(CannotIssue, ValueError)
