"""The Game API URL for escs, without a database: a signed token in, the player's profile out.

The public API: `TokenIssuer` for the game backend, `TokenVerifier` and `create_app` for the verifying side.
"""

import importlib
from typing import TYPE_CHECKING

from verifier._version import __version__

__all__ = [
    "ConfigError",
    "InvalidToken",
    "IssueError",
    "KeyFileError",
    "Player",
    "Reason",
    "Settings",
    "Signer",
    "TokenIssuer",
    "TokenVerifier",
    "UnsafeOperationError",
    "VerifierError",
    "__version__",
    "create_app",
    "raw_signature",
]

if TYPE_CHECKING:
    from verifier.core.tokens import Player
    from verifier.errors import (
        ConfigError,
        InvalidToken,
        IssueError,
        KeyFileError,
        Reason,
        UnsafeOperationError,
        VerifierError,
    )
    from verifier.server.endpoints import create_app
    from verifier.server.settings import Settings
    from verifier.signing.issuer import Signer, TokenIssuer, raw_signature
    from verifier.storage.token_verifier import TokenVerifier
else:
    _MODULES = dict.fromkeys(__all__, "verifier.errors") | {
        "Player": "verifier.core.tokens",
        "Settings": "verifier.server.settings",
        "Signer": "verifier.signing.issuer",
        "TokenIssuer": "verifier.signing.issuer",
        "TokenVerifier": "verifier.storage.token_verifier",
        "create_app": "verifier.server.endpoints",
        "raw_signature": "verifier.signing.issuer",
    }

    def __getattr__(name: str) -> object:
        # On first use, because every import of verifier.server runs this file: the server must not load what signs.
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        except ModuleNotFoundError as exc:
            exc.add_note("hint: pip install 'escs-verifier[server]'")
            raise
        return globals()[name]
