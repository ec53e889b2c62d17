"""The example game in a real browser: log in, decide what to share, and see the profile that escs receives."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOKEN
from tests.support import chromium

pytest.importorskip("fastapi", reason="needs FastAPI (make .venv/test.stamp)")

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 20.0
# Below the ports that clients get (Linux: from 32768 on), and another one in each process of a parallel run.
FIRST_PORT = str(20_000 + os.getpid() % 10_000)
WIDTHS = (375, 1024, 1600)
# The element with a text, and the middle of what a player can press.
POINT = """
(() => {
  const found = [...document.querySelectorAll("button, label")].filter(e => e.innerText.startsWith(%s));
  if (found.length !== 1) return null;
  const box = found[0].getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  return found[0].contains(document.elementFromPoint(x, y)) ? [x, y] : null;
})()
"""
PROFILE = "document.querySelector('#escs dl')?.innerText.split(/\\s*\\n\\s*/) ?? null"


@dataclass(frozen=True)
class Example:
    """`make example`, running in a folder of its own."""

    game: str
    game_api_url: str
    folder: Path
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("example") / "files"
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "run.py", "--folder", folder, "--port", FIRST_PORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        output = [process.stdout.readline() for _ in range(4)]
        assert output[-1] == "Open the game in a browser. Ctrl-C stops everything.\n", (output, process.stdout.read())
        yield Example(output[0].split()[-1], output[1].split()[-1], folder, process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    if chromium.BROWSER is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser: chromium.Page, example: Example) -> chromium.Page:
    """The game, before the login."""
    browser.call("Network.clearBrowserCookies")
    browser.requests.clear()
    browser.show()
    browser.open(example.game)
    return browser


def wait_for(page: chromium.Page, expression: str) -> Any:
    """The first value of a JavaScript expression that is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if value := page.evaluate(expression):
            return value
        time.sleep(0.02)
    raise AssertionError(f"{expression} did not come true:\n{page.evaluate('document.body.innerText')}")


def press(page: chromium.Page, text: str) -> None:
    """Press what begins with a text, with the mouse, where a player sees it."""
    x, y = wait_for(page, POINT % json.dumps(text))
    for event in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)


def sign_in(page: chromium.Page, *shared: str, button: str = "Sign in with your game account") -> list[str]:
    """Sign in to escs, sharing what is named; the profile that escs received, as it is shown."""
    page.evaluate("document.querySelector('#escs dl')?.remove() ?? null")
    press(page, button)
    wait_for(page, "document.querySelector('dialog')?.open ?? null")
    for label in shared:
        press(page, label)
    press(page, "Continue")
    profile: list[str] = wait_for(page, PROFILE)
    return profile


def test_the_profile_holds_what_the_player_shares(page):
    press(page, "ann")
    assert sign_in(page) == ["_id", "player-42"]
    # The dialog shows the last choice again: each press changes one of them.
    again = "Sign in again"
    assert sign_in(page, "E-mail", button=again) == ["_id", "player-42", "email", "ann@example.com"]
    both = ["_id", "player-42", "email", "ann@example.com", "username", "ann"]
    assert sign_in(page, "Username", button=again) == both
    assert sign_in(page, "E-mail", button=again) == ["_id", "player-42", "username", "ann"]


@pytest.mark.usefixtures("browser")  # which skips without Chromium
def test_the_game_works_under_another_name_of_its_host(example, tmp_path):
    page = chromium.Page(tmp_path)  # of its own: its redirect leads to another process of the browser
    try:
        page.open(example.game.replace("127.0.0.1", "localhost"))
        wait_for(page, f"location.origin === '{example.game}' && document.readyState === 'complete'")
        press(page, "ann")
        assert sign_in(page, "Username") == ["_id", "player-42", "username", "ann"]
    finally:
        page.close()


def test_a_cancelled_dialog_issues_no_token(page):
    press(page, "ann")
    press(page, "Sign in with your game account")
    press(page, "Cancel")
    wait_for(page, "document.querySelector('dialog')?.open === false")
    press(page, "Sign in with your game account")
    wait_for(page, "document.querySelector('dialog')?.open ?? null")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Escape", code="Escape", windowsVirtualKeyCode=27)
    wait_for(page, "document.querySelector('dialog')?.open === false")
    press(page, "Log out")
    wait_for(page, "document.querySelector('h1')?.innerText === 'Choose a player'")
    assert not [url for url in page.requests if url.endswith(("/escs/token", "/sign-in"))]


def test_a_name_is_text_on_the_page_in_the_dialog_and_at_escs(page):
    press(page, "Zoë <3 & friends")
    assert sign_in(page, "Username") == ["_id", "player-43", "username", "Zoë <3 & friends"]
    assert page.evaluate("document.querySelector('.player').innerText") == "Zoë <3 & friends"
    assert page.evaluate("document.querySelectorAll('small')[1].textContent") == "Zoë <3 & friends"


def test_a_session_that_has_ended_is_an_error_that_the_player_can_read(page):
    press(page, "ann")
    press(page, "Sign in with your game account")
    page.call("Network.clearBrowserCookies")
    press(page, "Continue")
    text = wait_for(page, "document.querySelector('#error')?.innerText ?? null")
    assert text == "That did not work (/escs/token: status 401). Please try again."
    assert page.evaluate(PROFILE) is None


def test_no_script_sees_the_session_and_no_url_holds_the_token(page, example):
    press(page, "ann")
    sign_in(page)
    assert page.evaluate("document.cookie") == ""
    names = {"/", "/static/game.css", "/static/game.js", "/login", "/escs/token", "/plugin.css", "/plugin.js"}
    hosts = ("127.0.0.1", "localhost")
    paths = [url.split("/", 3) for url in page.requests]
    assert {path[2].split(":")[0] for path in paths} == set(hosts)
    assert {f"/{path[3]}" for path in paths} == names | {"/sign-in"}
    for log in example.folder.glob("*.log"):
        for word in (*TOKEN, "ann@example.com", (example.folder / "secret").read_text()):
            assert word not in log.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(page, width, scheme, tmp_path):
    page.show(width=width, scheme=scheme)

    def check(name: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.querySelectorAll('*')].every(e => e.scrollWidth <= innerWidth)")
        if folder := os.environ.get("EXAMPLE_PICTURES"):
            Path(folder, f"{name}-{width}-{scheme}.png").write_bytes(page.picture())

    check("login")
    press(page, "Zoë")
    wait_for(page, POINT % '"Sign in"')
    check("signed-out")
    press(page, "Sign in")
    wait_for(page, "document.querySelector('dialog')?.open ?? null")
    check("dialog")
    press(page, "Username")
    press(page, "E-mail")
    press(page, "Continue")
    wait_for(page, PROFILE)
    check("signed-in")


@dataclass(frozen=True)
class Response:
    status: int
    body: Any
    headers: dict[str, str]


@pytest.fixture
def post(example: Example) -> Callable[..., Response]:
    """Post to the game backend as its own page does, but for what is named."""

    def post(path: str, body: Any, **changes: str) -> Response:
        headers = {"Origin": example.game, "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        request = urllib.request.Request(example.game + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return Response(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.status, error.read(), dict(error.headers))

    return post


@pytest.fixture
def cookie(post: Callable[..., Response]) -> str:
    response = post("/login", {"player": "player-42"})
    value, *attributes = response.headers["set-cookie"].split("; ")
    assert (response.status, sorted(attributes)) == (204, ["HttpOnly", "Path=/", "SameSite=strict"])
    return value


def test_a_token_is_issued_once_logged_in_and_is_not_cached(post, cookie):
    response = post("/escs/token", {"permissions": []}, Cookie=cookie)
    assert response.status == 200
    assert list(json.loads(response.body)) == ["token"]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Cookie": "session="}, 401),
        ({"Cookie": "session=guess"}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Type": "text/plain"}, 422),  # what another site's form could send
    ],
)
def test_no_token_for_another_sender(post, cookie, changes, status):
    response = post("/escs/token", {"permissions": ["email"]}, **{"Cookie": cookie} | changes)
    assert response.status == status
    assert b"eyJ" not in response.body


@pytest.mark.parametrize(
    "consent",
    [{}, {"permissions": ["password"]}, {"permissions": "email"}, {"permissions": [], "email": "a@b.example"}],
)
def test_a_consent_that_is_not_understood_issues_no_token(post, cookie, consent):
    assert post("/escs/token", consent, Cookie=cookie).status == 422


def test_a_session_ends_on_the_server_too(post, cookie):
    assert post("/logout", {}, Cookie=cookie).status == 204
    assert post("/escs/token", {"permissions": []}, Cookie=cookie).status == 401


def test_another_sites_page_can_start_no_session(post):
    assert post("/login", {"player": "player-42"}, Origin="https://evil.example").status == 403
    assert post("/login", {"player": "nobody"}).status == 401


def test_the_end_stops_every_server(tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "run.py", "--folder", tmp_path / "files", "--port", FIRST_PORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        urls = [process.stdout.readline().split()[-1] for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        for url in urls:
            with pytest.raises(urllib.error.URLError, match="Connection refused"):
                urllib.request.urlopen(url, timeout=10)
    finally:
        process.kill()
        process.communicate()
