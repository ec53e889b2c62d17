"""Renew the locks of the recipes, after a version in one of their manifests was changed.

`make languages-lock`. The locks of Python and .NET are renewed by `make lock`.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from tests.languages.build import CRATES, FOLDER, MAVEN_COPY, MissingError, download

HEADER = "# Cargo.lock for Cargo.toml, without the address of the registry: build.py puts it back.\n"


def node(folder: Path) -> None:
    download("npm", "install", "--package-lock-only", "--silent", cwd=folder)


def go(folder: Path) -> None:
    download("go", "mod", "tidy", cwd=folder)


def java(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for scope in ("runtime", "provided"):
            where = (f"-DincludeScope={scope}", f"-DoutputDirectory={scratch}/{scope}")
            download("mvn", "--quiet", "--batch-mode", MAVEN_COPY, *where, cwd=folder)
        found = sorted(Path(scratch).glob("*/*.jar"), key=lambda path: path.name)
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in found]
    (folder / "sha256sums").write_text("".join(lines))


def rust(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(folder / "Cargo.toml", scratch)
        (Path(scratch) / "src").mkdir()
        (Path(scratch) / "src" / "lib.rs").touch()
        download("cargo", "generate-lockfile", "--quiet", cwd=Path(scratch))
        lock = (Path(scratch) / "Cargo.lock").read_text()
    text = lock[lock.index("version = ") :].replace(CRATES, 'source = "crates.io"')
    (folder / "crates.lock").write_text(HEADER + text)


if __name__ == "__main__":
    try:
        for renew in (node, go, java, rust):
            renew(FOLDER / renew.__name__)
    except MissingError as exc:
        sys.exit(str(exc))
