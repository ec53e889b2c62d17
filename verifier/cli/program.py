"""The program as the user started it, so that printed commands can be pasted."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

COMMANDS = ("applications", "check", "completion", "dev", "explain", "healthcheck", "keys", "serve", "token")
# The option that names the files of each group of commands.
FILES = {"keys": "--keys", "applications": "--file"}
_COMMAND = re.compile(r"\bverifier (keys|applications) [a-z-]+(?![a-z-]|[^&;]* --(?:keys|file) )")
# Not one that `command` returned: its program is a path or a module.
_PROGRAM = re.compile(rf"(?<![\w./-])(?<!-m )verifier(?= (?:--help|{'|'.join(COMMANDS)})(?![\w-]))")


def command(*arguments: object, elsewhere: bool = False) -> str:
    """Return a command line of this program for a POSIX shell, with the path it was started with.

    With `elsewhere` it is for another shell, which may be in any folder and have another PATH.
    """
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        program = [sys.executable if elsewhere else sys.orig_argv[0], "-m", "verifier"]
    elif elsewhere:
        program = [os.path.abspath(started)]
    else:
        # A shell that found the program in PATH passes its full path.
        found = shutil.which(started.name)
        program = [started.name if found and Path(found) == started else sys.argv[0]]
    return shlex.join([*program, *map(str, arguments)])


def with_files(text: str, given: Mapping[str, str]) -> str:
    """Complete the commands in a text: the path of the program, and options for other files than the defaults."""

    def complete(found: re.Match[str]) -> str:
        option = FILES[found[1]]
        return f"{found[0]} {option} {shlex.quote(given[option])}" if option in given else found[0]

    return _PROGRAM.sub(lambda _: command(), _COMMAND.sub(complete, text))
