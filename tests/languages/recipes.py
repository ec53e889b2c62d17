"""A recipe: a program that issues a token, as its page in docs/issuing shows it."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "issuing"
LANGUAGES = ["node", "go", "java", "rust", "php", "python", "ruby", "elixir", "cpp", "dotnet"]
ALGORITHMS = ["ES256", "EdDSA", "RS256"]


@dataclass(frozen=True)
class Recipe:
    """One program for one algorithm; `name` is its file name without the suffix."""

    language: str
    file: str
    alg: str
    source: str

    @property
    def name(self) -> str:
        return Path(self.file).stem


def page(language: str) -> Path:
    """Return the page of a language."""
    return PAGES / f"{language}.md"


def recipes(language: str) -> list[Recipe]:
    """Return every recipe of a page: as printed, and with the replacements that its last table names.

    Raises:
        ValueError: a replacement names a recipe or a text that is not on the page.
    """
    text = page(language).read_text("utf-8")
    printed: dict[str, str] = dict(re.findall(r'(?ms)^```\w+ title="([^"]+)"\n(.*?)^```$', text))
    found = [Recipe(language, file, "ES256", source) for file, source in printed.items()]
    for alg, column in (("EdDSA", 2), ("RS256", 3)):
        changed: dict[str, str] = {}
        for row in re.findall(r"(?m)^\|( `[^`|]+` (?:\|[^|\n]*){3})\|$", text):
            file, before, *_ = cells = [cell.strip().strip("`") for cell in row.split("|")]
            if cells[column]:
                source = changed.get(file, printed.get(file, ""))
                if before not in source:
                    raise ValueError(f"{language}.md: {file} has no {before}")
                changed[file] = source.replace(before, cells[column])
        found += [Recipe(language, file, alg, source) for file, source in changed.items()]
    return found


def versions(language: str) -> dict[str, str]:
    """Return the libraries that a page names, with the versions that it says were run."""
    found: dict[str, str] = {}
    for row in re.findall(r"(?ms)^\| library \| version run.*?(?=\n\n)", page(language).read_text("utf-8")):
        for names, version in re.findall(r"(?m)^\| (`.+?`) \| (\d\S*) \|", row):
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", names), version)
    return found
