"""Build every recipe of docs/issuing with its locked libraries, into tests/languages/.build.

`python -m tests.languages.build [LANGUAGE...]` (`make languages`) downloads and compiles; the tests run the result.
What cannot be had here (a toolchain, a download) is recorded with its reason, and its tests are skipped with it.
A recipe that does not compile is an error.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.languages.recipes import LANGUAGES, Recipe, recipes

FOLDER = Path(__file__).parent
BUILD = FOLDER / ".build"
DOWNLOAD_TIMEOUT_S = 300
COMPILE_TIMEOUT_S = 600
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
CRATES = 'source = "registry+https://github.com/rust-lang/crates.io-index"'
# Java, Elixir and .NET read their arguments in the encoding of the locale.
ENVIRONMENT = os.environ | {
    "LC_ALL": "C.UTF-8",
    "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-mod=readonly",
    # Outside the folder that a build begins with empty: the libraries take a minute to compile, a recipe a second.
    "CARGO_TARGET_DIR": str(BUILD / "cargo"),
}


class MissingError(Exception):
    """What a language needs cannot be had here; the text is the reason."""


def _compile(*command: object, cwd: Path) -> None:
    """Run a compiler.

    Raises:
        RuntimeError: it failed; the text is its output.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")


def download(*command: object, cwd: Path) -> None:
    """Run a package client.

    Raises:
        MissingError: it failed, or did not end in time.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise MissingError(f"{command[0]} did not end within {DOWNLOAD_TIMEOUT_S} s") from exc
    if done.returncode:
        raise MissingError(f"{command[0]} could not download the libraries")


def _need(*command: str, reason: str) -> None:
    """Check for a library that the system's package manager installs.

    Raises:
        MissingError: the command failed; with this reason.
    """
    if subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60).returncode:
        raise MissingError(reason)


def _source(recipe: Recipe, folder: Path) -> Path:
    """Write a recipe to the folder of its algorithm."""
    place = folder / recipe.alg / recipe.file
    place.parent.mkdir(exist_ok=True)
    place.write_text(recipe.source, "utf-8")
    return place


def _scripts(folder: Path, found: Sequence[Recipe]) -> None:
    for recipe in found:
        _source(recipe, folder)


def _php(folder: Path, found: Sequence[Recipe]) -> None:
    _need("php", "-r", 'exit((int) !extension_loaded("openssl"));', reason="the PHP extension openssl is not installed")
    _scripts(folder, found)


def _ruby(folder: Path, found: Sequence[Recipe]) -> None:
    _need("ruby", "-rjwt", "-e", "", reason="the gem jwt is not installed (Debian: ruby-jwt)")
    _scripts(folder, found)


def _elixir(folder: Path, found: Sequence[Recipe]) -> None:
    check = ":jose.module_info() && :jiffy.module_info()"
    _need("elixir", "-e", check, reason="jose or a JSON library is not installed (Debian: erlang-jose, erlang-jiffy)")
    _scripts(folder, found)


def _node(folder: Path, found: Sequence[Recipe]) -> None:
    download("npm", "ci", "--silent", "--ignore-scripts", cwd=folder)
    _scripts(folder, found)


def _python(folder: Path, found: Sequence[Recipe]) -> None:
    _compile(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = (folder / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
    download(*pip, "install", "--require-hashes", "-r", "requirements.lock", cwd=folder)
    _scripts(folder, found)


def _go(folder: Path, found: Sequence[Recipe]) -> None:
    download("go", "mod", "download", cwd=folder)
    for recipe in found:
        source = _source(recipe, folder)
        _compile("go", "build", "-o", source.with_suffix(""), source, cwd=folder)
    _compile("go", "build", "-o", "verify", "verify.go", cwd=folder)


def _java(folder: Path, found: Sequence[Recipe]) -> None:
    # The libraries of the recipes, and beside them Kotlin's compiler.
    for scope in ("runtime", "provided"):
        where = (f"-DincludeScope={scope}", f"-DoutputDirectory={folder / scope}")
        download("mvn", "--quiet", "--batch-mode", MAVEN_COPY, *where, cwd=folder)
    listed = [line.split("  ") for line in (folder / "sha256sums").read_text().splitlines()]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.jar")}
    if digests != {name: digest for digest, name in listed}:
        raise RuntimeError("the libraries that Maven brought are not those of sha256sums")
    for alg in {recipe.alg for recipe in found}:
        sources = [_source(recipe, folder) for recipe in found if recipe.alg == alg]
        _compile(
            "javac", "-cp", "runtime/*", "-d", alg, *(path for path in sources if path.suffix == ".java"), cwd=folder
        )
        for source in (path for path in sources if path.suffix == ".kt"):
            libraries = ":".join(str(path) for path in (source.parent, *folder.glob("runtime/*.jar")))
            compiler = ("java", "-cp", "provided/*:runtime/*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler")
            _compile(*compiler, "-no-stdlib", "-cp", libraries, "-d", alg, source, cwd=folder)


def _rust(folder: Path, found: Sequence[Recipe]) -> None:
    lock = (folder / "crates.lock").read_text()
    (folder / "Cargo.lock").write_text(lock.replace('source = "crates.io"', CRATES))
    programs = folder / "src" / "bin"
    programs.mkdir(parents=True)
    for recipe in found:
        (programs / f"{recipe.name}-{recipe.alg}.rs").write_text(recipe.source)
    download("cargo", "fetch", "--quiet", "--locked", cwd=folder)
    _compile("cargo", "build", "--quiet", "--offline", "--locked", cwd=folder)


def _cpp(folder: Path, found: Sequence[Recipe]) -> None:
    for recipe in found:
        source = _source(recipe, folder)
        _compile("g++", "-std=c++17", "-Wall", "-Wextra", source, "-lcrypto", "-o", source.with_suffix(""), cwd=folder)


def _dotnet(folder: Path, found: Sequence[Recipe]) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    download(*pip, "install", "--require-hashes", "--no-deps", "-t", "lib", "-r", "requirements.lock", cwd=folder)
    _dotnet_host(folder).chmod(0o755)
    # Mono's compiler reads the assemblies of .NET Core 3.1, but not those of .NET 8.
    (assemblies,) = folder.glob("lib/dotnetcore2/bin/shared/Microsoft.NETCore.App/*")
    names = ["System.Private.CoreLib", *DOTNET_ASSEMBLIES]
    references = [f"-r:{assemblies / name}.dll" for name in names]
    for recipe in found:
        program = _source(recipe, folder).with_suffix(".dll")
        _compile(
            "mcs", "-nostdlib", "-noconfig", *references, f"-out:{program}", program.with_suffix(".cs"), cwd=folder
        )
        framework = {"name": "Microsoft.NETCore.App", "version": "8.0.0"}
        program.with_suffix(".runtimeconfig.json").write_text(json.dumps({"runtimeOptions": {"framework": framework}}))


DOTNET_ASSEMBLIES = [
    "System.Collections",
    "System.Console",
    "System.IO.FileSystem",
    "System.Memory",
    "System.Runtime",
    "System.Runtime.Extensions",
    "System.Security.Cryptography.Algorithms",
    "System.Security.Cryptography.Primitives",
    "System.Text.Encoding.Extensions",
    "System.Text.Json",
]


def _dotnet_host(folder: Path) -> Path:
    return folder / "lib" / "dnv" / "net" / "runtime" / ".net" / "dotnet"


@dataclass(frozen=True)
class Toolchain:
    """What builds the recipes of a language: its programs, the oldest version that can, and how."""

    programs: tuple[str, ...]
    version: tuple[str, ...]
    oldest: tuple[int, ...]
    build: Callable[[Path, Sequence[Recipe]], None]

    def check(self) -> None:
        """Check that the toolchain is here.

        Raises:
            MissingError: a program is missing or too old.
        """
        for program in self.programs:
            if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
                raise MissingError(f"{program} is not installed")
        done = subprocess.run(self.version, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        if found is None or tuple(map(int, found[0].split("."))) < self.oldest:
            wanted = ".".join(map(str, self.oldest))
            raise MissingError(f"{self.version[0]} {found[0] if found else 'without a version'} is older than {wanted}")


TOOLCHAINS = {
    "node": Toolchain(("node", "npm"), ("node", "--version"), (20,), _node),
    "go": Toolchain(("go",), ("go", "env", "GOVERSION"), (1, 21), _go),
    "java": Toolchain(("java", "javac", "mvn"), ("javac", "-version"), (17,), _java),
    "rust": Toolchain(("cargo", "cc"), ("cargo", "--version"), (1, 88), _rust),
    "php": Toolchain(("php",), ("php", "--version"), (8,), _php),
    "python": Toolchain((), (sys.executable, "--version"), (3, 11), _python),
    "ruby": Toolchain(("ruby",), ("ruby", "--version"), (2, 7), _ruby),
    "elixir": Toolchain(("elixir",), ("elixir", "--short-version"), (1, 12), _elixir),
    "cpp": Toolchain(("g++",), ("g++", "-dumpfullversion"), (8,), _cpp),
    "dotnet": Toolchain(("mcs",), ("mcs", "--version"), (6,), _dotnet),
}


def command(recipe: Recipe) -> list[str]:
    """Return the command that runs a built recipe; the player follows."""
    folder = BUILD / recipe.language
    source = folder / recipe.alg / recipe.file
    match recipe.language:
        case "java":
            # Only the first of the just-in-time compilers: half the time for so short a run.
            flags = ["-XX:TieredStopAtLevel=1", "-Xshare:auto"]
            program = recipe.name if source.suffix == ".java" else f"{recipe.name}Kt"
            return ["java", *flags, "-cp", f"{source.parent}:{folder}/runtime/*", program]
        case "rust":
            return [str(BUILD / "cargo" / "debug" / f"{recipe.name}-{recipe.alg}")]
        case "go" | "cpp":
            return [str(source.with_suffix(""))]
        case "dotnet":
            return [str(_dotnet_host(folder)), str(source.with_suffix(".dll"))]
        case "python":
            return [str(folder / "venv" / "bin" / "python"), str(source)]
        case language:
            return [language, str(source)]


def digest(language: str) -> str:
    """Return the digest of all that a build depends on: the recipes, the locks, this program."""
    hashed = hashlib.sha256(repr(recipes(language)).encode() + Path(__file__).read_bytes())
    for path in sorted((FOLDER / language).glob("*")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def state(language: str) -> dict[str, str]:
    """Return what is recorded of the last build: its digest, and `missing` or `failed` with the reason."""
    try:
        found: dict[str, str] = json.loads((BUILD / f"{language}.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def build(language: str) -> dict[str, str]:
    """Build the recipes of a language unless they are built, and record the outcome."""
    outcome = {"digest": digest(language)}
    if state(language) == outcome:
        return outcome
    folder = BUILD / language
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (FOLDER / language).glob("*"):
        shutil.copy(path, folder)
    try:
        TOOLCHAINS[language].check()
        TOOLCHAINS[language].build(folder, recipes(language))
    except MissingError as exc:
        outcome["missing"] = str(exc)
    except (RuntimeError, subprocess.TimeoutExpired) as exc:
        outcome["failed"] = str(exc)
    (BUILD / f"{language}.json").write_text(json.dumps(outcome))
    return outcome


def main() -> int:
    """Build the named languages, or all; two at a time."""
    names = sys.argv[1:] or LANGUAGES
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(names, pool.map(build, names), strict=True))
    for language, outcome in outcomes.items():
        reason = outcome.get("failed") or outcome.get("missing")
        print(f"{language}: {reason}" if reason else f"{language}: built")
    return any("failed" in outcome for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
