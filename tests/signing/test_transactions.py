"""A change that fails on the way is undone or reported; a suspended process and a clock that is set change no plan."""

import errno
import json
import os
import stat

import pytest

from tests.conftest import NOW
from verifier.core.times import LEAD_S, utc
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation import history, plan
from verifier.rotation.plan import Planner, activate_first_key
from verifier.signing.current_key import CurrentKey
from verifier.signing.keystore import Keystore
from verifier.storage import atomic


def tree(folder):
    """Every file below a folder and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def create(store, alg, *, nbf=NOW):
    """Make a key pair and publish it, as `keys generate` does; its kid."""
    members, pem = store.generate_pair(alg)
    with store.transaction():
        store.apply([activate_first_key(members | {"nbf": nbf}, now=NOW)], "generate", now=NOW, pem=pem)
    return members["kid"]


# --- a change that fails on the way


def full_disk(path):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def fail_publishing(monkeypatch, numbers, error=full_disk):
    """Let the calls of `publish` with these numbers fail."""
    publish, calls = atomic.publish, []

    def failing(path):
        calls.append(path)
        if len(calls) in numbers:
            raise error(path)
        publish(path)

    monkeypatch.setattr(atomic, "publish", failing)
    return calls


def begin_rotation(store, clock=lambda: NOW, **options):
    """Rotate as `keys rotate` does; the kid of the new key."""
    members, private = store.generate_pair("ES256")
    with store.transaction() as keyring:
        steps = Planner(keyring, NOW).rotate(members)
        store.apply(steps, "rotate", now=NOW, pem=private, **options)
    return members["kid"]


@pytest.fixture
def timed(keys):
    """A keystore whose clock the test sets, by `times`: one value per reading, the last one again and again."""
    times = [NOW]
    store = Keystore(keys, lambda: times.pop(0) if len(times) > 1 else times[0])
    store.times = times
    with store.transaction():
        pass  # makes what is made once
    return store


@pytest.mark.parametrize("number", range(1, 6))
def test_a_change_that_fails_while_it_is_applied_is_undone(timed, keys, monkeypatch, number):
    before = tree(keys)
    calls = fail_publishing(monkeypatch, {number})
    with pytest.raises(ConfigError) as caught:
        begin_rotation(timed)
    assert str(caught.value) == (
        f"{calls[number - 1]}: cannot be written (No space left on device); nothing was changed"
    )
    assert caught.value.hint == "remove the cause, then run the command again"
    assert tree(keys) == before


def test_a_change_that_can_neither_be_finished_nor_undone_is_reported_as_interrupted(timed, pairs, monkeypatch):
    with monkeypatch.context() as patch:
        calls = fail_publishing(patch, {5, 6})  # the history, and what would be restored
        with pytest.raises(ConfigError) as caught:
            begin_rotation(timed)
        path = calls[4]
    until = utc(NOW + LEAD_S - plan.PROPAGATION_S)
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); "
        f"the rotate is recorded in {timed.journal} and is not complete"
    )
    assert caught.value.hint == (
        "remove the cause, then run verifier keys recover: it finishes the rotate "
        f"until {until} (after that, it is abandoned); to undo it now: verifier keys recover --undo"
    )
    assert timed.journal.exists()


def test_a_revocation_that_fails_on_the_way_is_not_undone(timed, pairs, monkeypatch):
    with monkeypatch.context() as patch:
        calls = fail_publishing(patch, {2})
        kid = pairs["ES256"].kid
        with timed.transaction(revoking=True) as keyring:
            steps = Planner(keyring, NOW).revoke(keyring.find(kid), "lost")
            with pytest.raises(ConfigError) as caught:
                timed.apply(steps, "revoke", now=NOW)
    assert str(caught.value) == (
        f"{calls[1]}: cannot be written (No space left on device); "
        f"the revoke is recorded in {timed.journal} and is not complete"
    )
    assert caught.value.hint == "remove the cause, then run verifier keys recover: it finishes the revoke"
    with timed.transaction() as keyring:
        assert keyring.find(kid).revoked_at == NOW


def test_an_error_without_a_cause_in_words_is_named_by_its_kind(timed, monkeypatch):
    fail_publishing(monkeypatch, {1}, lambda path: OSError())
    with pytest.raises(ConfigError) as caught:
        begin_rotation(timed)
    assert str(caught.value) == "a file: cannot be written (OSError); nothing was changed"


# --- a process that is suspended, and a clock that is set


@pytest.mark.parametrize("moved", [-1, 31])
def test_a_clock_that_moves_while_a_command_runs_stops_it(timed, keys, moved):
    before = tree(keys)
    timed.times[:] = [NOW, NOW + moved]
    with pytest.raises(UnsafeOperationError) as caught:
        begin_rotation(timed)
    assert str(caught.value) == (
        f"the clock moved by {moved} s while the command ran (expected 0 to 30 s); nothing was changed"
    )
    assert caught.value.hint == "the process was suspended or the clock was set: run the command again"
    assert tree(keys) == before


def test_a_clock_that_moves_after_the_new_key_verifies_keeps_that_key(timed, pairs):
    # Read at the beginning, before the journal, before each of three changes, before the history, and for the outcome.
    timed.times[:] = [NOW] * 5 + [NOW + LEAD_S]
    with pytest.raises(UnsafeOperationError) as caught:
        begin_rotation(timed)
    (kid,) = {path.stem for path in timed.public.folder.iterdir()} - {pair.kid for pair in pairs.values()}
    assert str(caught.value).startswith("the clock moved by 3600 s while the command ran (expected 0 to 30 s); the rot")
    assert f"its key is in use ({kid}); finished it with a new end for the previous key" in str(caught.value)
    assert CurrentKey(timed.folder).signer(NOW + LEAD_S).kid == kid


def test_a_process_that_is_suspended_during_its_last_write_moves_the_end_that_it_set(timed, pairs):
    timed.times[:] = [NOW] * 6 + [NOW + 500]
    begin_rotation(timed)
    end = NOW + 500 + LEAD_S + plan.OverlapPolicy().overlap_s
    key = timed.public.keyring.find(pairs["ES256"].kid)
    assert (key.exp, timed.now) == (end, NOW + 500)
    found = history.load(timed.history.read_bytes())
    assert (found.problems, found.events[-1].reason, found.events[-1].exp) == ((), "the process was suspended", end)


def test_a_late_command_whose_ends_are_late_enough_moves_none(timed, pairs):
    timed.times[:] = [NOW] * 6 + [NOW + 100]
    begin_rotation(timed, window=plan.OverlapPolicy(max_lifetime_s=0, leeway_s=0))
    events = history.load(timed.history.read_bytes()).events
    assert (len(events), events[-1].exp) == (2, NOW + LEAD_S + plan.OverlapPolicy().overlap_s)


def test_an_assumed_time_replaces_that_of_the_clock(timed, pairs):
    timed.times[:] = [NOW - 5000]
    with timed.transaction() as keyring:
        assert timed.now == NOW - 5000
        timed.assume(NOW)
        timed.apply(Planner(keyring, timed.now).revoke(keyring.find(pairs["RS256"].kid), "lost"), "revoke", now=NOW)
    assert timed.public.keyring.find(pairs["RS256"].kid).revoked_at == NOW


def test_a_suspension_is_measured_by_the_assumed_time(timed, pairs):
    timed.times[:] = [NOW - 5000] * 7 + [NOW - 4500]
    with timed.transaction() as keyring:
        timed.assume(NOW)
        jwk, pem = timed.generate_pair("ES256")
        timed.apply(Planner(keyring, NOW).rotate(jwk), "rotate", now=NOW, pem=pem)
    end = NOW + 500 + LEAD_S + plan.OverlapPolicy().overlap_s
    assert timed.public.keyring.find(pairs["ES256"].kid).exp == end


# --- the history and files elsewhere


def test_the_end_before_a_rotation_is_unknown_when_the_history_cannot_be_read(store, pairs):
    kid = pairs["ES256"].kid
    path = store.public.folder / f"{kid}.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"exp": NOW + 400}))
    store.public.refresh()
    assert store.previous_exp(kid) == NOW + 400
    assert store.previous_exp("unknown") is None
    store.history.mkdir()
    assert store.previous_exp(kid) is None


def test_nothing_is_planned_beside_a_history_that_cannot_be_read(timed, keys):
    timed.history.mkdir()
    before = tree(keys)
    with pytest.raises(ConfigError) as caught:
        begin_rotation(timed)
    assert str(caught.value) == f"{timed.history}: cannot be read (Is a directory)"
    assert caught.value.hint == "restore the file from version control"
    assert tree(keys) == before


def test_a_file_outside_the_key_directory_is_replaced_together_with_its_line(timed, tmp_path):
    path = tmp_path / "applications.json"
    path.write_text("old")
    line = history.SecretEvent(
        at=NOW, by="ann", command="add", application="one", slot=1, sha256="a", old="none", new="active"
    )
    with timed.transaction(revoking=True):
        timed.record(path, b"new", 0o600, [line], "add")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert history.load(timed.history.read_bytes()).secrets == (line,)
    assert not timed.journal.exists()
