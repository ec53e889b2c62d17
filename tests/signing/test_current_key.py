"""The current key of a directory signs: it is read once a second, by threads and after a fork."""

import json
import re
import threading

import pytest

from tests.conftest import NOW
from verifier.core.times import utc
from verifier.errors import ConfigError, KeyFileError
from verifier.storage.refresher import reset_all

# --- the current key


def test_the_newest_started_key_signs(store, pairs):
    assert store.signer(NOW).kid == pairs["ES256"].kid
    assert store.signer(NOW - 100).kid == pairs["ES256"].kid
    assert store.signer(NOW - 101).kid == pairs["EdDSA"].kid
    assert store.signer(NOW - 201).kid == pairs["RS256"].kid


def test_a_key_is_read_once_and_kept(store, pairs):
    first = store.signer(NOW)
    (store.private / f"{pairs['ES256'].kid}.pem").unlink()
    assert store.signer(NOW) is first
    assert store.signer(NOW + 100) is first


def change(store, kid, **changes):
    path = store.public.folder / f"{kid}.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_the_folder_is_looked_at_once_a_second(store, pairs, monkeypatch):
    looks = []
    refresh = store.public.refresh
    monkeypatch.setattr(store.public, "refresh", lambda: looks.append(1) or refresh())
    for now, expected in ((NOW, 1), (NOW, 1), (NOW + 1, 2), (NOW + 1, 2), (NOW, 3), (NOW + 60, 4)):
        store.signer(now)
        assert len(looks) == expected


def test_a_thread_that_refreshes_while_another_reads_waits_for_it(store, monkeypatch):
    load, waited = store.load, []
    other = threading.Thread(target=store.signer, args=(NOW,))

    def load_while_another_asks(public):
        other.start()
        other.join(0.05)
        waited.append(other.is_alive())
        return load(public)

    monkeypatch.setattr(store, "load", load_while_another_asks)
    store.signer(NOW)
    other.join(10)
    assert waited == [True]


def test_a_revoked_key_signs_until_the_next_look_and_no_longer(store, pairs):
    assert store.signer(NOW).kid == pairs["ES256"].kid
    change(store, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    assert store.signer(NOW).kid == pairs["ES256"].kid
    assert store.signer(NOW + 1).kid == pairs["EdDSA"].kid


def test_a_clock_that_goes_back_looks_again(store, pairs):
    assert store.signer(NOW).kid == pairs["ES256"].kid
    change(store, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    assert store.signer(NOW - 1).kid == pairs["EdDSA"].kid


def test_a_signer_learns_when_its_key_ends(store, pairs):
    assert store.signer(NOW).exp is None
    change(store, pairs["ES256"].kid, exp=NOW + 400)
    assert store.signer(NOW + 1).exp == NOW + 400


def test_without_a_current_key_nothing_signs(store, pairs):
    assert store.signer(NOW).alg == "ES256"
    dates = f"pending until {utc(NOW - 300)}: is this clock behind ({utc(NOW - 301)})?"
    says = f"{store.public.folder}: no current key (found {pairs['RS256'].kid}, {dates})"
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}$") as caught:
        store.signer(NOW - 301)
    assert caught.value.hint == "verifier keys list"


def test_without_a_current_key_what_is_wrong_with_the_files_is_said(store, pairs, empty):
    assert store.signer(NOW - 201).kid == pairs["RS256"].kid
    path = store.public.folder / f"{pairs['RS256'].kid}.json"
    path.write_bytes(b"")
    says = f"{store.public.folder}: no current key (found {path}: is not valid JSON)"
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}$"):
        store.signer(NOW - 202)
    folder = empty.public.folder
    says = f"{folder}: no current key (found {folder}: cannot be read (No such file or directory))"
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}$"):
        empty.signer(NOW)


def test_a_current_key_without_its_private_key_does_not_let_an_older_one_sign(store, pairs):
    assert store.signer(NOW - 101).kid == pairs["EdDSA"].kid
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.unlink()
    says = f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(KeyFileError, match=f"^{re.escape(says)}$"):
        store.signer(NOW)


def test_a_forked_child_has_a_lock_of_its_own_and_reads_again(store, pairs):
    assert store.signer(NOW).kid == pairs["ES256"].kid
    change(store, pairs["ES256"].kid, revoked={"revoked_at": NOW})
    with store._lock:  # as another thread does at the fork
        reset_all()
        assert store.signer(NOW).kid == pairs["EdDSA"].kid
