"""The fixtures of tests/conformance, for the commands that send requests."""

from tests.conformance.conftest import folder, listen, ours, serve

__all__ = ["folder", "listen", "ours", "serve"]
