"""The server without batching: the response to a request is written as soon as it is computed, not together with those
of the same event-loop iteration. For measurements only; the product has no such switch.
"""

import os
from typing import Any

from verifier.server import connection, run
from verifier.server.settings import Settings

start = connection.HttpConnection._start


def start_and_respond(self: connection.HttpConnection, cycle: Any) -> None:
    start(self, cycle)
    if self.batch:
        connection.process_batch(self.batch)


if __name__ == "__main__":
    connection.HttpConnection._start = start_and_respond  # type: ignore[method-assign]
    run.serve(Settings.from_environment(os.environ))
