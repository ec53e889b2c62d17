"""The program as the user started it, so that printed commands can be pasted."""

import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# The option that names the files of each group of commands.
FILES = {"keys": "--keys", "applications": "--file"}
_COMMAND = re.compile(r"\bverifier (keys|applications) [a-z-]+(?![a-z-]|[^&;]* --(?:keys|file) )")


def command(*arguments: object) -> str:
    """Return a command line of this program for a POSIX shell, with the path it was started with."""
    started = Path(sys.argv[0])
    # A shell that found the program in PATH passes its full path.
    found = shutil.which(started.name)
    program = [started.name if found and Path(found) == started else sys.argv[0]]
    if started.name == "__main__.py":
        program = [sys.orig_argv[0], "-m", "verifier"]
    return shlex.join([*program, *map(str, arguments)])


def with_files(text: str, given: Mapping[str, str]) -> str:
    """Add to the commands in a text the options that name other files than the defaults."""

    def complete(found: re.Match[str]) -> str:
        option = FILES[found[1]]
        return f"{found[0]} {option} {shlex.quote(given[option])}" if option in given else found[0]

    return _COMMAND.sub(complete, text)
