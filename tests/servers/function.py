"""Run the handler of docs/platforms.md as a function service does: events in, responses out, one per line.

    python tests/servers/function.py HANDLER < EVENTS

At the end, the processor time of the import and of each response is written to stderr, in ms.
"""

import json
import sys
import time

started = time.process_time()
namespace: dict[str, object] = {}
exec(compile(open(sys.argv[1]).read(), "handler.py", "exec"), namespace)  # noqa: S102, SIM115
imported = time.process_time()
handler = namespace["handler"]
times = []
for line in sys.stdin:
    before = time.process_time()
    response = handler(json.loads(line), None)  # type: ignore[operator]
    times.append((time.process_time() - before) * 1000)
    print(json.dumps(response), flush=True)
print(json.dumps({"import": (imported - started) * 1000, "responses": times}), file=sys.stderr)
