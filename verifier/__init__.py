"""The Game API URL for escs, without a database: a signed token in, the player's profile out."""

from typing import TYPE_CHECKING, Any

from verifier._version import __version__

if TYPE_CHECKING:
    from verifier.errors import ConfigError as ConfigError
    from verifier.errors import IssueError as IssueError
    from verifier.server.endpoints import create_app as create_app
    from verifier.server.settings import Settings as Settings
    from verifier.signing.issuer import TokenIssuer as TokenIssuer

__all__ = ["ConfigError", "IssueError", "Settings", "TokenIssuer", "__version__", "create_app"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # On demand, because every import of verifier.server runs this file: the server must not load what signs.
        import importlib

        modules = {
            "TokenIssuer": "verifier.signing.issuer",
            "ConfigError": "verifier.errors",
            "IssueError": "verifier.errors",
            "Settings": "verifier.server.settings",
            "create_app": "verifier.server.endpoints",
        }
        if name in modules:
            return getattr(importlib.import_module(modules[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
