"""The refusals a caller sees, and the errors an operator sees."""


class Refusal(Exception):
    """A request that is answered with an error; `str()` is the error_description.

    The text is one fixed phrase per cause: printable ASCII without `"` and `\\`
    (RFC 6749 §5.2), and nothing the sender wrote.
    """

    status: int
    code: str

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.headers: tuple[tuple[bytes, bytes], ...] = ()


class InvalidRequest(Refusal):
    """The request is not what escs sends; `status` says in which way."""

    code = "invalid_request"

    def __init__(self, text: str, status: int = 400, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class Unavailable(Refusal):
    """More than this server takes at once; the same request can be sent again (RFC 9110 §15.6.4)."""

    status = 503
    code = "temporarily_unavailable"  # RFC 6749 §4.1.2.1

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.headers = ((b"retry-after", b"1"),)


class Unauthorized(Refusal):
    """A 401, with the challenge it must carry (RFC 9110 §11.6.1, RFC 6750 §3)."""

    status = 401

    def __init__(self, text: str) -> None:
        super().__init__(text)
        challenge = f'Bearer error="{self.code}", error_description="{text}"'
        self.headers = ((b"www-authenticate", challenge.encode("ascii")),)


class InvalidClient(Unauthorized):
    """The application is unknown or its secret is wrong."""

    code = "invalid_client"

    def __init__(self) -> None:
        # One text for both, so that nobody learns which application ids exist.
        super().__init__("unknown application or wrong secret")


class InvalidToken(Unauthorized):
    """The token breaks a rule of the profile; the text names the rule."""

    code = "invalid_token"
    kid = ""  # of the key the token names, where it is loaded; never part of the answer
    age_s: int | None = None  # since its iat, where a signed token is refused for its time; never part of the answer


class ConfigError(Exception):
    """What an operator set up is wrong: `str()` says what, where, expected and found; `hint` the way out."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class KeyFileError(ConfigError):
    """A key file that cannot be used."""


class CommandRefused(ConfigError):
    """What a command will not do, because players would be refused or something lost."""


class CannotIssue(ValueError):
    """A token that the verifier would refuse is not issued."""
