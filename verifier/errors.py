"""Every exception of the package, under one base, and the reason of every error response.

`Reason` is the complete list of what the endpoint can reject: name, HTTP status and text, side by side.
"""

from enum import StrEnum
from typing import Any

Headers = tuple[tuple[bytes, bytes], ...]


class Reason(StrEnum):
    """Why a request was rejected: one stable, machine-readable member per cause.

    Logs, metric labels, `explain --json` and `check` carry the value; people read `text`, which is printable ASCII
    without `"` and `\\` (RFC 6749 §5.2). A text holds only limits and names of ours, never anything that was sent.
    """

    status: int  # of the response
    text: str  # error_description; {limit} and the like are filled in where the error is raised

    def __new__(cls, value: str, status: int = 0, text: str = "") -> "Reason":
        member = str.__new__(cls, value)
        member._value_, member.status, member.text = value, status, text
        return member

    # The connection and the server
    MALFORMED_REQUEST = "malformed_request", 400, "malformed HTTP/1.1 request"
    HEADERS_TOO_LARGE = "headers_too_large", 431, "request headers too large (limit {limit} bytes)"
    HEADERS_TOO_MANY = "headers_too_many", 431, "too many request header fields (limit {limit})"
    FRAMING_TOO_LARGE = "framing_too_large", 413, "chunked framing of the request body too large (limit {limit} bytes)"
    HEADER_TIMEOUT = "header_timeout", 408, "timed out reading request headers ({limit} s)"
    TOO_MANY_CONNECTIONS = "too_many_connections", 503, "too many concurrent connections"
    TOO_MANY_REQUESTS = "too_many_requests", 503, "too many concurrent requests"
    SHUTTING_DOWN = "shutting_down", 503, "the server is shutting down"
    KEYS_STALE = "keys_stale", 503, "keys and applications have not been read recently enough to be trusted"
    INTERNAL_ERROR = "internal_error", 500, "internal error"

    # The request
    NOT_FOUND = "not_found", 404, "not found"
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "method not allowed (use {methods})"
    BODY_TIMEOUT = "body_timeout", 408, "timed out reading the request body ({limit} s)"
    BODY_TOO_LARGE = "body_too_large", 413, "request body too large (limit {limit} bytes)"
    MEDIA_TYPE_UNSUPPORTED = "media_type_unsupported", 415, "Content-Type must be application/json"
    BODY_ENCODED = "body_encoded", 415, "Content-Encoding is not supported"
    BODY_EMPTY = "body_empty", 400, "the body is empty"
    BODY_NOT_UTF8 = "body_not_utf8", 400, "the body is not UTF-8"
    BODY_NOT_JSON = "body_not_json", 400, "the body is not valid JSON"
    BODY_NOT_OBJECT = "body_not_object", 400, "the body is not a JSON object"
    BODY_DUPLICATE_KEY = "body_duplicate_key", 400, "duplicate key in JSON body"
    BODY_TOO_COMPLEX = "body_too_complex", 400, "JSON nesting too deep or too many objects in the body"
    CODE_MISSING = "code_missing", 400, "code must be a non-empty string"
    SECRET_KEY_MISSING = "secret_key_missing", 400, "secretKey must be a non-empty string"
    APPLICATION_ID_MISSING = "application_id_missing", 400, "applicationId must be a non-empty string"

    # The application; one reason for both, so that a response does not reveal which application ids exist
    CLIENT_REJECTED = "client_rejected", 401, "unknown application or wrong secret"

    # The form of the token
    TOKEN_MALFORMED = "token_malformed", 401, "malformed token: expected header.payload.signature"
    HEADER_NOT_BASE64URL = "header_not_base64url", 401, "the token header is not valid unpadded base64url"
    HEADER_NOT_UTF8 = "header_not_utf8", 401, "the token header is not UTF-8"
    HEADER_NOT_JSON = "header_not_json", 401, "the token header is not valid JSON"
    HEADER_NOT_OBJECT = "header_not_object", 401, "the token header is not a JSON object"
    HEADER_DUPLICATE_KEY = "header_duplicate_key", 401, "duplicate key in the token header"
    HEADER_TOO_COMPLEX = "header_too_complex", 401, "JSON nesting too deep or too many objects in the token header"
    PAYLOAD_NOT_BASE64URL = "payload_not_base64url", 401, "the token payload is not valid unpadded base64url"
    PAYLOAD_NOT_UTF8 = "payload_not_utf8", 401, "the token payload is not UTF-8"
    PAYLOAD_NOT_JSON = "payload_not_json", 401, "the token payload is not valid JSON"
    PAYLOAD_NOT_OBJECT = "payload_not_object", 401, "the token payload is not a JSON object"
    PAYLOAD_DUPLICATE_KEY = "payload_duplicate_key", 401, "duplicate key in the token payload"
    PAYLOAD_TOO_COMPLEX = "payload_too_complex", 401, "JSON nesting too deep or too many objects in the token payload"
    SIGNATURE_NOT_BASE64URL = "signature_not_base64url", 401, "the token signature is not valid unpadded base64url"

    # The header of the token, its key and its signature
    TYP_MISSING = "typ_missing", 401, "typ is missing; expected at+jwt"
    TYP_IS_JWT = "typ_is_jwt", 401, "typ is JWT, the default of JWT libraries; expected at+jwt"
    TYP_UNEXPECTED = "typ_unexpected", 401, "unexpected typ; expected at+jwt"
    CRIT_UNSUPPORTED = "crit_unsupported", 401, "crit is not supported in the token header"
    B64_UNSUPPORTED = "b64_unsupported", 401, "b64 is not supported in the token header"
    ZIP_UNSUPPORTED = "zip_unsupported", 401, "zip is not supported in the token header"
    KID_MISSING = "kid_missing", 401, "kid is missing from the token header"
    UNKNOWN_KEY = "unknown_key", 401, "unknown key ID (kid)"
    KEY_REVOKED = "key_revoked", 401, "the key with this kid is revoked"
    KEY_EXPIRED = "key_expired", 401, "the key with this kid has expired"
    KEY_NOT_YET_VALID = "key_not_yet_valid", 401, "the key with this kid is not valid yet"
    ALG_UNSUPPORTED = "alg_unsupported", 401, "alg must be ES256, EdDSA or RS256"
    ALG_MISMATCH = "alg_mismatch", 401, "alg is not the algorithm of the key with this kid"
    SIGNATURE_IS_DER = "signature_is_der", 401, "signature is DER; ES256 needs the 64 bytes r and s (RFC 7518 3.4)"
    SIGNATURE_INVALID = "signature_invalid", 401, "invalid signature"

    # The claims
    ISS_UNEXPECTED = "iss_unexpected", 401, "unexpected issuer (iss)"
    AUD_INVALID = "aud_invalid", 401, "audience (aud) must be a string or a list of strings"
    AUD_UNEXPECTED = "aud_unexpected", 401, "audience (aud) does not include the applicationId"
    SUB_MISSING = "sub_missing", 401, "sub must be a non-empty string"
    SUB_IS_NUMBER = "sub_is_number", 401, "sub must be a string, not a number"
    SUB_TOO_LONG = "sub_too_long", 401, "sub is longer than {limit} characters"
    SUB_UNPAIRED_SURROGATE = "sub_unpaired_surrogate", 401, "sub has an unpaired surrogate (truncated emoji)"
    EMAIL_NOT_STRING = "email_not_string", 401, "email must be a string"
    EMAIL_TOO_LONG = "email_too_long", 401, "email is longer than {limit} characters"
    EMAIL_UNPAIRED_SURROGATE = "email_unpaired_surrogate", 401, "email has an unpaired surrogate (truncated emoji)"
    USERNAME_NOT_STRING = "username_not_string", 401, "username must be a string"
    USERNAME_TOO_LONG = "username_too_long", 401, "username is longer than {limit} characters"
    USERNAME_UNPAIRED_SURROGATE = (
        "username_unpaired_surrogate",
        401,
        "username has an unpaired surrogate (truncated emoji)",
    )
    EXP_MISSING = "exp_missing", 401, "exp is missing"
    EXP_NOT_NUMBER = "exp_not_number", 401, "exp must be a number of seconds"
    EXP_NOT_FINITE = "exp_not_finite", 401, "exp must be finite"
    EXP_IN_MILLISECONDS = "exp_in_milliseconds", 401, "exp looks like milliseconds; it must be in seconds"
    TOKEN_EXPIRED = "token_expired", 401, "token has expired (exp)"
    IAT_MISSING = "iat_missing", 401, "iat is missing"
    IAT_NOT_NUMBER = "iat_not_number", 401, "iat must be a number of seconds"
    IAT_NOT_FINITE = "iat_not_finite", 401, "iat must be finite"
    IAT_IN_MILLISECONDS = "iat_in_milliseconds", 401, "iat looks like milliseconds; it must be in seconds"
    IAT_IN_FUTURE = "iat_in_future", 401, "token was issued in the future (iat): clock skew?"
    NBF_NOT_NUMBER = "nbf_not_number", 401, "nbf must be a number of seconds"
    NBF_NOT_FINITE = "nbf_not_finite", 401, "nbf must be finite"
    NBF_IN_MILLISECONDS = "nbf_in_milliseconds", 401, "nbf looks like milliseconds; it must be in seconds"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid", 401, "token is not valid yet (nbf)"
    LIFETIME_NOT_POSITIVE = "lifetime_not_positive", 401, "exp is not after iat"
    LIFETIME_TOO_LONG = "lifetime_too_long", 401, "token lifetime exceeds the maximum of {limit} s"


class VerifierError(Exception):
    """Base class of every error that this package raises on purpose."""


class ApiError(VerifierError):
    """An error response: `reason`, its HTTP status, the OAuth error code and headers; `str()` is the description."""

    code: str

    def __init__(self, reason: Reason, headers: Headers = (), **details: Any) -> None:
        super().__init__(reason.text.format(**details) if details else reason.text)
        self.reason = reason
        self.status = reason.status
        self.headers = headers


class InvalidRequest(ApiError):
    """The request is not one that escs sends."""

    code = "invalid_request"


class ServiceUnavailableError(ApiError):
    """The server cannot take the request now; the same request can be sent again (RFC 9110 §15.6.4)."""

    code = "temporarily_unavailable"  # RFC 6749 §4.1.2.1

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason, ((b"retry-after", b"1"),))


class InternalError(ApiError):
    """An unexpected exception; the log has its type and location."""

    code = "server_error"  # RFC 6749 §4.1.2.1

    def __init__(self) -> None:
        super().__init__(Reason.INTERNAL_ERROR)


class Unauthorized(ApiError):
    """A 401 with the challenge that it must carry (RFC 9110 §11.6.1, RFC 6750 §3)."""

    def __init__(self, reason: Reason, **details: Any) -> None:
        super().__init__(reason, **details)
        challenge = f'Bearer error="{self.code}", error_description="{self}"'
        self.headers = ((b"www-authenticate", challenge.encode("ascii")),)


class InvalidClient(Unauthorized):
    """The application is unknown or its secret is wrong."""

    code = "invalid_client"

    def __init__(self) -> None:
        super().__init__(Reason.CLIENT_REJECTED)


class InvalidToken(Unauthorized):
    """The token breaks a rule of the token profile; `reason` names the rule.

    `kid` is the key ID if the token names a loaded key; `age_s` is the age in seconds of a token with a valid
    signature that is rejected for its time. Neither is part of the response.
    """

    code = "invalid_token"
    kid = ""
    age_s: int | None = None


class ConfigError(VerifierError):
    """A setting or file is wrong: `str()` states what, where, expected and found; `hint` states how to fix it."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # for a traceback, where an application embeds the endpoint


class KeyFileError(ConfigError):
    """A key file that cannot be used."""


class UnsafeOperationError(ConfigError):
    """A command was refused because players would be rejected or something would be lost."""


class IssueError(VerifierError, ValueError):
    """A token was not issued because the verifier would reject it."""
