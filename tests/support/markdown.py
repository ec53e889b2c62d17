"""Markdown as a reader of the repository sees it: fenced blocks, links, headings and their anchors."""

import functools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"(?m)^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
# A block that no test executes: the reason, and the test that checks it in another way.
NOTE = re.compile(
    r"\*Not executed here: (?P<reason>[^*]+)\.(?: Checked by `(?P<file>[^`:]+)(?:::(?P<test>\w+))?`\.)?\*\n\n\Z"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    options: str  # such as title="issue.go"
    note: re.Match[str] | None  # the visible line above that says why it is not executed

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """The pages of docs/, sorted."""
    return sorted(p for p in DOCS.rglob("*.md") if not p.relative_to(DOCS).parts[0].startswith("."))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        body = re.sub(rf"(?m)^{match['indent']}", "", match["text"])
        before = text[: match.start()]
        yield Block(
            page, before.count("\n") + 1, match["language"], body, match["options"].strip(), NOTE.search(before)
        )


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> list[str]:
    """The anchors of the headings of a page, as hosts of repositories compute them."""
    headings = re.findall(r"(?m)^#{1,6} (.+?)(?: #+)?$", prose(page))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings]
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain]


def links(page: Path) -> list[str]:
    """The targets of the links and images of a page."""
    return [a or b or c for a, b, c in LINK.findall(prose(page))]


@functools.cache
def sources() -> str:
    """All files of the repository that a page may quote."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    names = listed.stdout.splitlines() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    quoted = [ROOT / n for n in names if n.split("/")[0] in ("deploy", "examples", "tests", "Dockerfile", "verifier")]
    return "\n".join(p.read_text(errors="replace") for p in quoted if p.suffix != ".md" and p.is_file())


def is_excerpt(block: Block) -> bool:
    """Whether a block is, as it stands or indented, part of a file that other tests run."""
    return block.text in sources()


def is_recipe(block: Block) -> bool:
    """Whether the tests of the recipes run a block from its page: they compare the titles with what they run."""
    return block.page.parent == DOCS / "issuing" and block.options.startswith("title=")
