"""The Game API URL for escs, without a database: a signed token in, the player's profile out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.errors import CannotIssue, ConfigError
    from verifier.issuer import TokenIssuer

__version__ = "0.1.0"
__all__ = ["CannotIssue", "ConfigError", "TokenIssuer", "__version__"]


def __getattr__(name: str) -> Any:
    # On demand, because every import of verifier.app runs this file: what serves must not load what signs.
    if name == "TokenIssuer":
        from verifier.issuer import TokenIssuer

        return TokenIssuer
    if name in ("CannotIssue", "ConfigError"):
        from verifier import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
