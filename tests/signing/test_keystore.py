"""Private keys: made once, never overwritten, readable for their owner alone."""

import errno
import json
import os
import re
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tests.conftest import NOW
from tests.support import forge
from verifier.core.durations import LEAD_S
from verifier.core.keyring import KeyState
from verifier.core.times import utc
from verifier.errors import ConfigError, KeyFileError, UnsafeOperationError
from verifier.rotation import history, plan
from verifier.rotation.plan import activate_first_key
from verifier.signing import keystore
from verifier.signing.keystore import Keystore
from verifier.storage import atomic
from verifier.storage.refresher import reset_all

ALGS = ["ES256", "EdDSA", "RS256"]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def tree(folder):
    """Every file below a folder and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(keys):
    return Keystore(keys)


@pytest.fixture
def empty(tmp_path):
    return Keystore(tmp_path / "new" / "keys")


def create(store, alg, *, nbf=NOW):
    """Make a key pair and publish it, as `keys generate` does; its kid."""
    members, pem = store.generate_pair(alg)
    with store.transaction():
        store.apply([activate_first_key(members | {"nbf": nbf}, now=NOW)], "generate", now=NOW, pem=pem)
    return members["kid"]


@pytest.fixture
def public(store):
    """Finds the public key of one of the three keys."""
    ring = store.public.load()
    return lambda alg: next(key for key in ring.keys.values() if key.algorithm.name == alg)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask-000", "umask-022", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


# --- making keys


@pytest.mark.parametrize("alg", ALGS)
def test_a_generated_key_has_the_requested_algorithm(alg):
    kinds = {"ES256": ec.EllipticCurvePrivateKey, "EdDSA": ed25519.Ed25519PrivateKey, "RS256": rsa.RSAPrivateKey}
    key = keystore.generate(alg)
    assert isinstance(key, kinds[alg])
    assert getattr(key, "key_size", None) == {"ES256": 256, "RS256": 2048}.get(alg)
    assert alg != "ES256" or isinstance(key.curve, ec.SECP256R1)


@pytest.mark.parametrize("alg", ALGS)
def test_a_created_key_is_published_with_its_dates_and_signs_from_nbf_on(empty, alg):
    kid = create(empty, alg, nbf=NOW + 3600)
    ring = empty.public.load()
    assert list(ring.keys) == [kid]
    document = json.loads((empty.public.folder / f"{kid}.json").read_bytes())
    assert {name: document[name] for name in ("alg", "use", "kid", "iat", "nbf")} == {
        "alg": alg,
        "use": "sig",
        "kid": kid,
        "iat": NOW,
        "nbf": NOW + 3600,
    }
    assert (ring.state(ring.find(kid), NOW + 3599), ring.state(ring.find(kid), NOW + 3600)) == (
        KeyState.PENDING,
        KeyState.CURRENT,
    )
    signature = empty.signer(NOW + 3600).sign(b"message")
    assert ring.find(kid).verify(b"message", signature) is True


@pytest.mark.usefixtures("umask")
def test_the_private_key_is_readable_for_its_owner_alone(empty):
    kid = create(empty, "ES256")
    assert (mode(empty.private), mode(empty.private / f"{kid}.pem")) == (0o700, 0o600)
    assert mode(empty.public.folder / f"{kid}.json") == 0o644


def test_a_private_folder_that_is_open_to_others_is_closed(store):
    store.private.chmod(0o755)
    create(store, "ES256")
    assert mode(store.private) == 0o700


def test_the_private_key_is_plain_pkcs8_which_every_library_reads(empty):
    kid = create(empty, "ES256")
    pem = (empty.private / f"{kid}.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert load_pem_private_key(pem, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == pem


def test_nothing_of_the_private_key_is_in_the_public_file(empty):
    kid = create(empty, "ES256")
    document = json.loads((empty.public.folder / f"{kid}.json").read_bytes())
    assert set(document) == {"kty", "crv", "x", "y", "alg", "use", "kid", "iat", "nbf"}


def test_another_key_leaves_every_file_as_it_is(store, keys):
    before = tree(keys)
    kid = create(store, "ES256")
    after = tree(keys)
    assert {after.pop(name) is not None for name in ("history.jsonl", "private/.lock", "private/.gitignore")} == {True}
    assert {name: after.pop(name) for name in (f"public/{kid}.json", f"private/{kid}.pem")}
    assert after == before


def test_a_private_key_is_never_overwritten(store, keys, pairs, monkeypatch):
    monkeypatch.setattr(keystore, "generate", lambda alg: pairs[alg].key)
    before = tree(keys)
    with pytest.raises(KeyFileError, match=r"\.pem: exists already; it is never overwritten$"):
        create(store, "ES256", nbf=NOW + 3600)
    after = tree(keys)
    assert {after.pop(name) is not None for name in ("private/.lock", "private/.gitignore")} == {True}
    assert after == before


@pytest.mark.parametrize("number", range(1, 5))
def test_nothing_is_left_of_a_key_when_one_of_its_files_cannot_be_written(empty, monkeypatch, number):
    with empty.transaction():
        pass
    stage, calls = atomic.stage, []

    def fail_once(path, *content):
        calls.append(path)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        stage(path, *content)

    monkeypatch.setattr(atomic, "stage", fail_once)
    with pytest.raises(ConfigError) as caught:
        create(empty, "ES256")
    assert str(caught.value) == f"{calls[-1]}: cannot be written (No space left on device); nothing was changed"
    assert caught.value.hint == "remove the cause, then run the command again"
    assert [calls[n].parent.name for n in range(number)] == ["private", "public", "keys", "private"][:number]
    assert list(empty.public.folder.iterdir()) == []
    assert sorted(path.name for path in empty.private.iterdir()) == [".gitignore", ".lock"]
    assert not empty.history.exists()


# --- reading the private key


@pytest.mark.parametrize("alg", ALGS)
def test_a_private_key_signs_what_its_public_key_verifies(store, public, alg):
    key = store.load(public(alg))
    assert (key.kid, key.alg, key.exp) == (public(alg).kid, alg, None)
    assert public(alg).verify(b"message", key.sign(b"message")) is True
    assert len(key.sign(b"message")) == {"ES256": 64, "EdDSA": 64, "RS256": 256}[alg]


def pem(key, form=PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


@pytest.mark.parametrize(
    ("alg", "begins"),
    [
        pytest.param("ES256", b"-----BEGIN EC PRIVATE KEY-----", id="sec1"),
        pytest.param("RS256", b"-----BEGIN RSA PRIVATE KEY-----", id="pkcs1"),
    ],
)
def test_the_older_kinds_of_pem_are_read_too(store, public, pairs, alg, begins):
    data = pem(pairs[alg].key, PrivateFormat.TraditionalOpenSSL)
    assert data.startswith(begins)
    (store.private / f"{pairs[alg].kid}.pem").write_bytes(data)
    assert public(alg).verify(b"message", store.load(public(alg)).sign(b"message")) is True


ENCRYPTED = BestAvailableEncryption(b"canary-password")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"canary", id="no-pem"),
        pytest.param(lambda key: pem(key)[:-40], id="cut-off"),
        pytest.param(lambda key: pem(key, encryption=ENCRYPTED), id="encrypted-pkcs8"),
        pytest.param(lambda key: pem(key, PrivateFormat.TraditionalOpenSSL, ENCRYPTED), id="encrypted-sec1"),
        pytest.param(lambda key: pem(key, PrivateFormat.OpenSSH), id="openssh"),
        pytest.param(lambda key: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), id="der"),
        pytest.param(
            lambda key: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), id="public"
        ),
        pytest.param(lambda _: pem(ec.generate_private_key(ec.SECP384R1())), id="p-384"),
        pytest.param(lambda _: pem(ed448.Ed448PrivateKey.generate()), id="ed448"),
        pytest.param(lambda _: pem(x25519.X25519PrivateKey.generate()), id="x25519"),
        pytest.param(lambda _: pem(rsa.generate_private_key(65537, 1024)), id="rsa-1024"),  # noqa: S505
    ],
)
def test_another_kind_of_file_is_refused_and_not_shown(store, public, pairs, content):
    assert store.load(public("ES256")).kid == pairs["ES256"].kid
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.write_bytes(content(pairs["ES256"].key))
    says = f"{path}: not an unencrypted PKCS#8 private key of a supported kind"
    with pytest.raises(KeyFileError, match=f"^{re.escape(says)}$") as caught:
        store.load(public("ES256"))
    assert "canary" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("other", ["a new key", "RS256"])
def test_the_private_key_of_another_key_is_refused(store, public, pairs, other):
    key = pairs[other].key if other in pairs else keystore.generate("ES256")
    found = forge.Pair("", key).kid
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.write_bytes(pem(key))
    says = f"{path}: contains another private key (found {found}, expected {pairs['ES256'].kid})"
    with pytest.raises(KeyFileError, match=f"^{re.escape(says)}$"):
        store.load(public("ES256"))


def test_a_missing_private_key_is_named_with_the_fix(store, public, pairs):
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.unlink()
    says = f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(KeyFileError, match=f"^{re.escape(says)}$") as caught:
        store.load(public("ES256"))
    assert caught.value.hint == "sign where the key was made, or copy its file here with mode 0600"


def test_a_private_key_does_not_show_itself(store, public):
    key = store.load(public("EdDSA"))
    assert repr(key) == f"PrivateKey(kid='{key.kid}', alg='EdDSA', exp=None)"


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
        steps = plan.rotate(keyring, members, now=NOW)
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
            steps = plan.revoke(keyring, keyring.find(kid), "lost", now=NOW)
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
    assert timed.signer(NOW + LEAD_S).kid == kid


def test_a_process_that_is_suspended_during_its_last_write_moves_the_end_that_it_set(timed, pairs):
    timed.times[:] = [NOW] * 6 + [NOW + 500]
    begin_rotation(timed)
    end = NOW + 500 + LEAD_S + plan.OverlapPolicy().overlap_s
    key = timed.public.keyring.find(pairs["ES256"].kid)
    assert (key.exp, timed.now) == (end, NOW + 500)
    events, problems = history.read(timed.history.read_bytes())
    assert (problems, events[-1].reason, events[-1].exp) == ([], "the process was suspended", end)


def test_a_late_command_whose_ends_are_late_enough_moves_none(timed, pairs):
    timed.times[:] = [NOW] * 6 + [NOW + 100]
    begin_rotation(timed, window=plan.OverlapPolicy(max_lifetime_s=0, leeway_s=0))
    events, _ = history.read(timed.history.read_bytes())
    assert (len(events), events[-1].exp) == (2, NOW + LEAD_S + plan.OverlapPolicy().overlap_s)


def test_an_assumed_time_replaces_that_of_the_clock(timed, pairs):
    timed.times[:] = [NOW - 5000]
    with timed.transaction() as keyring:
        assert timed.now == NOW - 5000
        timed.assume(NOW)
        timed.apply(plan.revoke(keyring, keyring.find(pairs["RS256"].kid), "lost", now=timed.now), "revoke", now=NOW)
    assert timed.public.keyring.find(pairs["RS256"].kid).revoked_at == NOW


# --- folders that cannot be used


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(ConfigError) as caught, Keystore(tmp_path / "keys").transaction():
        pytest.fail("began")
    says = os.strerror(errno.ENOTDIR)
    assert str(caught.value) == f"{tmp_path / 'keys' / 'public'}: {says}; nothing was changed"


@pytest.mark.parametrize("place", ["private", "none", "own"])
def test_the_lock_of_a_linked_history_is_held_as_well(store, keys, tmp_path, place):
    shared = keys if place == "own" else tmp_path / "shared"
    (shared / "private" if place == "private" else shared).mkdir(parents=True, exist_ok=True)
    target = shared / "log.jsonl"
    target.touch()
    store.history.symlink_to(target)
    lock = {"private": shared / "private" / ".lock", "none": shared / ".log.jsonl.lock"}.get(place)
    with store.transaction():
        assert lock is None or lock.read_text() == f"{os.getpid()}\n"
        assert (keys / "private" / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_kids_of_the_private_keys_that_are_here_are_known(store, empty, pairs):
    assert store.signable() == {pair.kid for pair in pairs.values()}
    assert empty.signable() is None


def test_the_end_before_a_rotation_is_unknown_when_the_history_cannot_be_read(store, pairs):
    kid = pairs["ES256"].kid
    change(store, kid, exp=NOW + 400)
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
    assert (path.read_text(), mode(path)) == ("new", 0o600)
    assert history.load(timed.history.read_bytes()).secrets == (line,)
    assert not timed.journal.exists()
