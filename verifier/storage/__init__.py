"""The key directory on disk: consistent snapshot reads, `TokenVerifier`, and atomic, journaled writes.

Only commands write. The server imports `key_directory` and `snapshot`, never `atomic` or `journal`.
"""
