"""The server that escs posts to: endpoints, ASGI plumbing, reloading, HTTP connections, logs and metrics.

Verifies with public keys. Imports core and the read-only part of storage; cannot sign, rotate or write a file.
"""
