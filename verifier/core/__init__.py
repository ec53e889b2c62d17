"""The token profile: what a valid token, key and application is, for the verifier and for issuers.

Pure: opens no file or socket, reads no clock and handles no private key; `now` is an argument.
"""
