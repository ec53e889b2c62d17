"""Write the generated parts of the reference pages: `python docs/reference.py`, or `--check` to compare only.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of generated -->`; the rest of a page is prose.
"""

import enum
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import verifier
from verifier.cli.main import cli
from verifier.conformance import runner
from verifier.rotation.audit import RULES
from verifier.server.settings import Settings

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def commands(command: click.Command, path: tuple[str, ...] = ("verifier",)) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, in the order of the help."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], (*path, name))


def clean(text: str | None) -> str:
    """A help text in one line, without what the table shows in other columns."""
    text = " ".join((text or "").split())
    text = re.sub(r"\s*\[(env|default)[^\]]*\]", "", text)
    return re.sub(r"(?<!`)(--[a-z][\w-]*)", r"`\1`", text).replace("|", "\\|").replace("<", "&lt;")


def option_row(option: click.Option, context: click.Context) -> str:
    """The row of an option: names and metavar, variable, default, help."""
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=len, reverse=True))
    metavar = "" if option.is_flag else " " + option.make_metavar(context)
    notes = [clean(option.help)]
    found = option.envvar or re.findall(r"\[env: (\w+)", option.help or "")
    variable = " or ".join(f"`{name}`" for name in ([found] if isinstance(found, str) else found))
    default = option.get_default(context, call=False)
    if isinstance(default, str | int | float | Path) and not option.is_flag and default not in ("", None):
        notes.append(f"Default: `{default}`.")
    if variable:
        notes.append(f"Variable: {variable}.")
    if option.required:
        notes.append("Required.")
    return f"| `{names}{metavar}` | {' '.join(note for note in notes if note)} |".replace("[", "\\[")


def help_paragraphs(command: click.Command) -> list[str]:
    """The help of a command; text that click does not rewrap (examples) as a block."""
    paragraphs = []
    for paragraph in [*inspect.cleandoc(command.help or "").split("\n\n"), command.epilog or ""]:
        if paragraph.startswith("\b\n"):
            heading, *lines = paragraph.removeprefix("\b\n").splitlines()
            paragraphs.append(f"{heading}\n\n```text\n{textwrap.dedent(chr(10).join(lines))}\n```")
        elif paragraph:
            paragraphs.append(clean(paragraph))
    return paragraphs


def cli_reference() -> str:
    """A section for every command."""
    sections = []
    for name, command in commands(cli):
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context))
        parts = [f"## {name}", f"```text\n{name} {usage}\n```", *help_paragraphs(command)]
        if isinstance(command, click.Group):
            rows = [f"[`{name} {child}`](#{name.replace(' ', '-')}-{child})" for child in sorted(command.commands)]
            parts.append(", ".join(rows) + ".")
        options = [p for p in command.params if isinstance(p, click.Option)]
        if options:
            rows = [option_row(option, context) for option in options]
            parts.append("\n".join(["| option | description |", "| --- | --- |", *rows]))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def configuration() -> str:
    """A row for every variable: description, default and allowed values."""
    rows = []
    for option in Settings.options():
        values = f"{option.low} to {option.high}" if option.high else ", ".join(option.choices)
        default = option.unset or (f"`{option.default}`" if option.default else "")
        notes = [
            clean(option.help),
            f"Default: {default}." if default else "",
            f"Values: {values}." if values else "",
            "Required." if option.name == "issuer" else "",
            "" if option.in_process_list else "No option.",
            "" if not option.serve_only else f"No effect if embedded{', but for metrics' * (option.name == 'host')}.",
        ]
        rows.append(f"| `{option.variable}` | {' '.join(note for note in notes if note)} |")
    return "\n".join(["| variable | description |", "| --- | --- |", *rows])


def docstring(thing: object) -> str:
    """A docstring as Markdown: `Raises:` and the like become lists."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"(?m)^(Raises|Args|Returns|Attributes):\n", r"**\1**\n\n", text)
    text = re.sub(r"(?m)^    (\w[\w.]*): ", r"- `\1`: ", text)
    return re.sub(r"(?m)^ {6,}", "  ", text).replace("``", "`")


def signature(name: str, thing: Any) -> str:
    """A signature in a block, one parameter a line where it is long."""
    text = str(inspect.signature(thing))
    text = re.sub(r"PosixPath\(('[^']*')\)", r"Path(\1)", text)
    text = re.sub(r"\b(?:verifier|pathlib|collections\.abc|starlette)\.(?:\w+\.)*(?=[A-Z])", "", text)
    text = re.sub(r"(: |-> )'([\w.\[\] |]+)'", r"\1\2", text)  # a forward reference
    text = re.sub(r"^\(self(?:, )?", "(", text).removesuffix(" -> None")
    if len(name + text) > 100:
        inside, _, result = text[1:].rpartition(")")
        text = "(\n    " + ",\n    ".join(re.split(r", (?![^\[]*\])", inside)) + f",\n){result}"
    return f"```text\n{name}{text}\n```"


def is_never_called(thing: Any) -> bool:
    """Whether users do not call a name: an error, an enumeration or a protocol."""
    is_protocol = getattr(thing, "_is_protocol", False)
    return inspect.isclass(thing) and (is_protocol or issubclass(thing, BaseException | enum.Enum))


def python_reference() -> str:
    """A section for every exported name."""
    sections = []
    for name in verifier.__all__:
        thing = getattr(verifier, name)
        if name.startswith("_") or not callable(thing):
            continue
        parts = [f"## {name}"]
        if not is_never_called(thing):
            parts.append(signature(name, thing))
        parts.append(docstring(thing))
        for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
            function = value.__func__ if isinstance(value, classmethod) else value
            if attribute.startswith("_") or not inspect.isfunction(function) or not inspect.getdoc(function):
                continue
            bound = getattr(thing, attribute)
            parts += [f"### {name}.{attribute}", signature(f"{name}.{attribute}", bound), docstring(function)]
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(sections)


def conformance_reference() -> str:
    """A table for each impact: the cases that have it, with level, description and expected status."""
    items = runner.select(())
    tables = []
    for advice in dict.fromkeys(item.advice for item in items):
        rows = [
            f"| `{item.id}` | {item.level} | {clean(item.description)} | {getattr(item, 'status', 'any')} |"
            for item in items
            if item.advice == advice
        ]
        lines = [f"Impact: {clean(advice.impact)}.<br>", f"Fix: {clean(advice.fix)}.", ""]
        tables.append(
            "\n".join([*lines, "| case | level | description | status |", "| --- | --- | --- | --- |", *rows])
        )
    return "\n\n".join(tables)


def audit_reference() -> str:
    """The rules of the audit, with severity, remediation and source."""
    rows = []
    for rule in RULES:
        requirement, remediation, clause = map(clean, (rule.requirement, rule.remediation, rule.clause))
        rows.append(f"| `{rule.id}` | {rule.severity} | {requirement} | {remediation} | {clause} |")
    header = ["| rule | severity | what must hold | otherwise | source |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*header, *rows])


PARTS: dict[str, Callable[[], str]] = {
    "audit": audit_reference,
    "conformance": conformance_reference,
    "cli": cli_reference,
    "configuration": configuration,
    "python": python_reference,
}


def render(page: str) -> str:
    """A page with its generated parts as the code has them now."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", page)


def main(arguments: list[str]) -> int:
    """Write what differs, or list it."""
    importlib.invalidate_caches()
    wrong: list[str] = []
    for path in sorted(DOCS.glob("*.md")):
        old = path.read_text()
        new = render(old)
        if new != old and "--check" in arguments:
            wrong.append(f"docs/{path.name}: differs from the code; run: python docs/reference.py")
        elif new != old:
            path.write_text(new)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
