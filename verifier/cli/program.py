"""The program as the user started it, so that printed commands can be pasted."""

import shlex
import shutil
import sys
from pathlib import Path


def command(*arguments: object) -> str:
    """Return a command line of this program for a POSIX shell, with the path it was started with."""
    started = Path(sys.argv[0])
    # A shell that found the program in PATH passes its full path.
    found = shutil.which(started.name)
    program = [started.name if found and Path(found) == started else sys.argv[0]]
    if started.name == "__main__.py":
        program = [sys.orig_argv[0], "-m", "verifier"]
    return shlex.join([*program, *map(str, arguments)])
