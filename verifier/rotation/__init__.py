"""Key rotation for the security reviewer: which changes are safe, what was changed, and the evidence of it.

Works on public keys, the history and replicas' public endpoints; never uses a private key.
"""
