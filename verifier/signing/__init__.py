"""Issuing tokens for the game backend. The only package that handles private keys.

Nothing that the server imports may import it.
"""
