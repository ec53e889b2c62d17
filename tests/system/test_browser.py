"""The reviewer's page as a real browser lays it out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rotation.test_report import HOSTILE, SCENES, hostile, planned, young
from tests.rotation.test_report import past as past  # a fixture
from tests.support import chromium
from verifier.rotation import report

pytestmark = pytest.mark.skipif(chromium.BROWSER is None, reason="needs Chromium (Debian: chromium)")

Open = Callable[[Callable[..., dict[str, Any]]], str]

# What sticks out of its parent, other than what a region scrolls.
WIDER_THAN_THE_WINDOW = """
[...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))
"""
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def show(page: chromium.Page, past: Any, tmp_path: Path) -> Open:
    def show(scene: Callable[..., dict[str, Any]]) -> str:
        file = tmp_path / "report.html"
        file.write_text(report.render_html(scene(past)))
        page.show()
        page.requests.clear()
        page.open(file.as_uri())
        return file.as_uri()

    return show


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_is_wider_than_the_window_and_nothing_is_fetched(page, show, scene):
    address = show(scene)
    for width in (375, 1024, 1600):
        page.show(width=width)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(WIDER_THAN_THE_WINDOW) == []
    assert page.requests == [address]


def test_on_paper_every_table_is_whole(page, show):
    show(hostile)
    page.show(width=704, media="print")  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") == 704
    assert page.evaluate("Math.max(...[...document.querySelectorAll('table')].map(t => t.offsetWidth))") <= 704
    assert page.pdf().startswith(b"%PDF-")


def test_light_and_dark_are_the_readers_choice(page, show):
    show(young)
    grounds = {}
    for scheme in ("light", "dark"):
        page.show(scheme=scheme)
        grounds[scheme] = page.evaluate(GROUND)
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}


def test_the_words_of_others_run_nothing(page, show):
    show(hostile)
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate(f"document.body.innerText.split({HOSTILE!r}).length") == 3


def test_the_shortest_overlap_can_be_seen_and_begins_at_its_switch(page, show):
    show(planned)
    page.show(width=375)
    widths = page.evaluate("[...document.querySelectorAll('.track .retiring')].map(e => e.offsetWidth)")
    assert min(widths) >= 8
    edges = "[...document.querySelectorAll('{}')].map(e => Math.round(e.getBoundingClientRect().left))"
    starts = page.evaluate(edges.format("figure:first-of-type .track .retiring"))
    assert starts == page.evaluate(edges.format("figure:first-of-type .switch"))


def test_a_screen_reader_gets_a_name_for_each_part(page, show):
    show(hostile)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    told = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    assert {
        ("figure", "Timeline"),
        ("figure", "Why 6 min of overlap"),
        ("region", "Switches"),
        ("columnheader", "moment (UTC)"),
        ("rowheader", "https://b"),
        ("heading", "Revocations"),
    } <= told


# What a reader looks for: the result of a rule, of a replica, of a switch, and the state of a key.
VERDICTS = """
[...document.querySelectorAll(".verdict, td.state, td .state, td.pass, td.fail")]
  .map(e => [e, e.closest(".scroll"), e.getBoundingClientRect().right])
"""
BELOW_THE_EDGE = f"""
{VERDICTS}.filter(([e, region, right]) => right > document.documentElement.clientWidth && (
  !region || region.scrollWidth <= region.clientWidth || getComputedStyle(region).overflowX != "auto"))
  .map(([e]) => e.outerHTML.slice(0, 80))
"""
OFF_SCREEN = f"""
[...new Set({VERDICTS}.filter(([e, region, right]) => right > document.documentElement.clientWidth)
  .map(([e, region]) => region.getAttribute("aria-label")))].sort()
"""
EDGES = """
[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).map(e => {
  const box = e.getBoundingClientRect()
  return [e.getAttribute("aria-label"), box.right - 2, box.top + scrollY + 8]
})
"""
TO_THE_END = "[...document.querySelectorAll('.scroll')].map(e => e.scrollLeft = e.scrollWidth)"


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_no_verdict_is_off_the_screen_without_a_cue(page, show, scene, scheme):
    show(scene)
    page.show(width=375, scheme=scheme)
    assert page.evaluate(BELOW_THE_EDGE) == []
    assert set(page.evaluate(OFF_SCREEN)) <= {"Changes of keys"}  # the others are on the screen without scrolling
    regions = page.evaluate(EDGES)
    assert {"Switches", "Keys", "Changes of keys", "Audit rules"} <= {label for label, _, _ in regions}
    blank = page.picture(x=1, y=1, width=2, height=2)
    cues = {label: page.picture(x=x, y=y, width=2, height=2) for label, x, y in regions}
    assert [label for label, cue in cues.items() if cue == blank] == []
    page.evaluate(TO_THE_END)
    ends = {label: page.picture(x=x, y=y, width=2, height=2) for label, x, y in regions}
    assert [label for label, cue in ends.items() if cue != blank] == []


def test_at_1600_px_a_key_id_fits_its_column(page, show):
    show(hostile)
    page.show(width=1600)
    heights = "[...document.querySelectorAll('#keys ~ .scroll tbody th .kid')].map(e => e.getClientRects().length)"
    assert set(page.evaluate(heights)) == {1}
