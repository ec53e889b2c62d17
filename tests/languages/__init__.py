"""The recipes of docs/issuing: read from the pages, built with locked libraries into `.build`.

Nothing here verifies a token; tests/system/test_languages.py does.
"""
