"""A game with keys, an application and a token, as its developer has them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.asgi import APPLICATION_ID, ISSUER, SECRET, verifier
from verifier import TokenIssuer


@pytest.fixture(scope="session")
def _game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("game")
    (folder / "secret").write_text(SECRET)
    verifier("keys", "generate", cwd=folder, check=True)
    verifier("applications", "add", APPLICATION_ID, cwd=folder, input=SECRET, check=True)
    return folder


@pytest.fixture
def game(_game: Path, tmp_path: Path) -> Path:
    """A folder with `keys`, `applications.json` and the secret, valid now."""
    return Path(shutil.copytree(_game, tmp_path / "game"))


@pytest.fixture
def game_environment(game: Path) -> dict[str, str]:
    return {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(game / "keys"),
        "VERIFIER_APPLICATIONS": str(game / "applications.json"),
    }


@pytest.fixture
def game_request(game: Path) -> bytes:
    """What escs posts for a player of the game, all of it good."""
    issuer = TokenIssuer.from_directory(game / "keys", issuer=ISSUER, application_id=APPLICATION_ID)
    token = issuer.issue("42", username="ann")
    return json.dumps({"code": token, "secretKey": SECRET, "applicationId": APPLICATION_ID}).encode()
