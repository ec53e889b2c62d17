"""The application for any ASGI server, with its settings from the environment: `uvicorn verifier.asgi:app`."""

import os
import sys

from verifier.errors import ConfigError
from verifier.server.endpoints import create_app
from verifier.server.settings import Settings

try:
    app = create_app(Settings.from_environment(os.environ))
except ConfigError as exc:
    # As on the command line, instead of a traceback through the server.
    print(f"verifier: error: {exc}", file=sys.stderr)
    if exc.hint:
        print(f"verifier: hint: {exc.hint}", file=sys.stderr)
    sys.exit(3)
