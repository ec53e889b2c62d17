"""The current key of a directory signs: it is read once a second, by threads and after a fork."""

import json
import re
import threading

import pytest

from tests.conftest import NOW
from verifier.core.times import utc
from verifier.errors import ConfigError, KeyFileError
from verifier.signing.current_key import CurrentKey
from verifier.storage.refresher import reset_all

# --- the current key


def test_the_newest_started_key_signs(current_key, pairs):
    assert current_key.signer(NOW).kid == pairs["ES256"].kid
    assert current_key.signer(NOW - 100).kid == pairs["ES256"].kid
    assert current_key.signer(NOW - 101).kid == pairs["EdDSA"].kid
    assert current_key.signer(NOW - 201).kid == pairs["RS256"].kid


def test_a_key_is_read_once_and_kept(current_key, pairs):
    first = current_key.signer(NOW)
    (current_key.private / f"{pairs['ES256'].kid}.pem").unlink()
    assert current_key.signer(NOW) is first
    assert current_key.signer(NOW + 100) is first


def change(current_key, kid, **changes):
    path = current_key.public.folder / f"{kid}.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_the_folder_is_looked_at_once_a_second(current_key, monkeypatch):
    looks = []
    refresh = current_key.public.refresh
    monkeypatch.setattr(current_key.public, "refresh", lambda: looks.append(1) or refresh())
    for now, expected in ((NOW, 1), (NOW, 1), (NOW + 1, 2), (NOW + 1, 2), (NOW, 3), (NOW + 60, 4)):
        current_key.signer(now)
        assert len(looks) == expected


def test_a_thread_that_refreshes_while_another_reads_waits_for_it(current_key, monkeypatch):
    refresh, waited = current_key.public.refresh, []
    other = threading.Thread(target=current_key.signer, args=(NOW,))

    def refresh_while_another_asks():
        other.start()
        other.join(0.05)
        waited.append(other.is_alive())
        return refresh()

    monkeypatch.setattr(current_key.public, "refresh", refresh_while_another_asks)
    current_key.signer(NOW)
    other.join(10)
    assert waited == [True]


def test_a_revoked_key_signs_until_the_next_look_and_no_longer(current_key, pairs):
    assert current_key.signer(NOW).kid == pairs["ES256"].kid
    change(current_key, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    assert current_key.signer(NOW).kid == pairs["ES256"].kid
    assert current_key.signer(NOW + 1).kid == pairs["EdDSA"].kid


def test_a_clock_that_goes_back_looks_again(current_key, pairs):
    assert current_key.signer(NOW).kid == pairs["ES256"].kid
    change(current_key, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    assert current_key.signer(NOW - 1).kid == pairs["EdDSA"].kid


def test_a_signer_learns_when_its_key_ends(current_key, pairs):
    assert current_key.signer(NOW).exp is None
    change(current_key, pairs["ES256"].kid, exp=NOW + 400)
    assert current_key.signer(NOW + 1).exp == NOW + 400


def test_without_a_current_key_nothing_signs(current_key, pairs):
    assert current_key.signer(NOW).alg == "ES256"
    dates = f"pending until {utc(NOW - 300)}: is this clock behind ({utc(NOW - 301)})?"
    says = f"{current_key.public.folder}: no current key (found {pairs['RS256'].kid}, {dates})"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$") as caught:
        current_key.signer(NOW - 301)
    assert caught.value.hint == "verifier keys list"


def test_without_a_current_key_what_is_wrong_with_the_files_is_said(current_key, pairs, tmp_path):
    assert current_key.signer(NOW - 201).kid == pairs["RS256"].kid
    path = current_key.public.folder / f"{pairs['RS256'].kid}.json"
    path.write_bytes(b"")
    says = f"{current_key.public.folder}: no current key (found {path}: is not valid JSON)"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
        current_key.signer(NOW - 202)
    empty = CurrentKey(tmp_path / "new" / "keys")
    folder = empty.public.folder
    says = f"{folder}: no current key (found {folder}: cannot be read (No such file or directory))"
    with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
        empty.signer(NOW)


def test_a_current_key_without_its_private_key_does_not_let_an_older_one_sign(current_key, pairs):
    assert current_key.signer(NOW - 101).kid == pairs["EdDSA"].kid
    path = current_key.private / f"{pairs['ES256'].kid}.pem"
    path.unlink()
    says = f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        current_key.signer(NOW)


def test_a_forked_child_has_a_lock_of_its_own_and_reads_again(current_key, pairs):
    assert current_key.signer(NOW).kid == pairs["ES256"].kid
    change(current_key, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    with current_key._refresh._lock:  # as another thread does at the fork
        reset_all()
        assert current_key.signer(NOW).kid == pairs["EdDSA"].kid
