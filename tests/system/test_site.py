"""The documentation as a site: built strictly, and laid out by a real browser."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import chromium
from tests.support.markdown import DOCS, ROOT, pages

ZENSICAL = DOCS / ".venv" / "bin" / "zensical"
pytestmark = pytest.mark.skipif(not ZENSICAL.exists(), reason="needs make docs/.venv/stamp")


# Tables of two columns that do not fit into the window; more columns may scroll.
WIDE_TABLES = """
[...document.querySelectorAll("article table")]
  .filter(table => table.rows[0].cells.length <= 2 && table.getBoundingClientRect().right > innerWidth)
  .map(table => table.innerText.slice(0, 80))
"""


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [ZENSICAL, "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link to a page or an anchor that does not exist is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "zensical.toml", folder)
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "docs" / ".site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    if chromium.BROWSER is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


def test_every_page_is_built_and_loads_nothing_from_other_hosts(site):
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    assert built == {page.relative_to(DOCS) for page in pages()} | {Path("404.md")}
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(https?:[^\"> ]+)", page.read_text())
        assert loaded == [], page
        assert 'class="mermaid"' not in page.read_text()  # it would load a script from another host


@pytest.mark.parametrize("link", ["missing.md", "faq.md#missing"])
def test_a_broken_link_fails_the_build(tmp_path, link):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n[link]({link})\n")
    (tmp_path / "docs" / "faq.md").write_text("# FAQ\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\n')
    assert build(tmp_path).returncode == 1


def test_no_page_is_wider_than_the_window_in_light_or_dark(site, browser):
    for page in sorted(site.rglob("*.html")):
        browser.requests.clear()
        browser.open(page.as_uri())
        for width, scheme in ((375, "dark"), (1024, "light")):
            browser.show(width=width, scheme=scheme)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, (page, width)
            assert browser.evaluate(WIDE_TABLES) == [], (page, width)
        assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == [], page
