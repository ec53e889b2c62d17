"""The schedule of keys, their files, and the folder that is read again."""

import dataclasses
import json
import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier.core import jwk, rules, tokens
from verifier.core.keyring import Keyring, KeyState, PublicKey, parse_public_key
from verifier.errors import KeyFileError
from verifier.signing.issuer import issue
from verifier.storage.key_directory import KeyDirectory

LEEWAY_S = 30


def key(kid, nbf=NOW, exp=None, revoked_at=None):
    """A key with a schedule, and nothing to check signatures with."""
    return PublicKey(kid, jwk.ALGORITHMS["ES256"], None, {"kid": kid}, nbf, nbf, exp, revoked_at)


def kids(keys):
    return [k.kid for k in keys]


# --- one key file


@pytest.fixture
def parse(pairs):
    """Reads the file of an ES256 key in which only the named members differ."""

    def parse(name=None, **changes):
        members = pairs["ES256"].public | {"iat": NOW - 100, "nbf": NOW}
        return parse_public_key(name or f"{members['kid']}.json", json.dumps(forge.changed(members, changes)).encode())

    return parse


def test_a_key_file_gives_a_key_and_its_dates(parse, pairs):
    found = parse(exp=NOW + 1, revoked={"revoked_at": NOW + 2, "reason": "lost"})
    assert dataclasses.replace(found, key=None, members={}, algorithm=None) == PublicKey(
        kid=pairs["ES256"].kid,
        algorithm=None,
        key=None,
        members={},
        iat=NOW - 100,
        nbf=NOW,
        exp=NOW + 1,
        revoked_at=NOW + 2,
        reason="lost",
    )
    assert found.algorithm.name == "ES256"
    assert found.key.public_numbers() == pairs["ES256"].key.public_key().public_numbers()


def test_a_key_that_neither_ends_nor_is_revoked_has_no_such_dates(parse):
    found = parse()
    assert (found.exp, found.revoked_at, found.reason) == (None, None, "")


def test_a_key_cannot_be_changed_and_does_not_print_what_is_long(parse):
    found = parse()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.revoked_at = None
    assert not hasattr(found, "__dict__")
    assert repr(found.key) not in repr(found)
    assert found.members["x"] not in repr(found)


def test_a_key_is_published_in_one_order_without_what_was_not_checked(parse):
    found = parse(exp=NOW + 9, x5c=["canary"], key_ops=["verify"])
    (published,) = Keyring([found]).jwks(NOW)
    assert list(published) == ["kty", "crv", "x", "y", "alg", "use", "kid", "iat", "nbf", "exp"]


def test_a_revocation_needs_no_reason(parse, pairs):
    found = parse(revoked={"revoked_at": NOW})
    assert (found.revoked_at, found.reason) == (NOW, "")
    assert found.members == pairs["ES256"].public | {"iat": NOW - 100, "nbf": NOW, "revoked": {"revoked_at": NOW}}


def test_a_key_checks_its_own_signatures_whatever_its_dates(parse, pairs):
    found = parse(exp=NOW + 1, revoked={"revoked_at": 0})
    signature = pairs["ES256"].sign(b"message")
    assert found.verify(b"message", signature) is True
    assert found.verify(b"another", signature) is False


@pytest.mark.parametrize("use", ["sig", forge.ABSENT])
def test_use_is_sig_or_absent(parse, use):
    assert parse(use=use).nbf == NOW


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize("value", [0, 10**11])
def test_the_first_and_the_last_instant_are_taken(parse, name, value):
    assert getattr(parse(**{name: value}), name) == value


def test_a_key_that_lives_one_second_is_taken(parse):
    assert parse(exp=NOW + 1).exp == NOW + 1


NO_REVOCATION = "revoked is not an object with revoked_at and reason"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(
            pytest.param(
                {name: value}, f"{name} is missing or not a whole number of seconds since 1970", id=f"{name}-{i}"
            )
            for name in ("iat", "nbf", "exp")
            for i, value in {
                "null": None,
                "string": str(NOW),
                "fraction": NOW + 0.5,
                "float": float(NOW),
                "boolean": True,
                "list": [NOW],
                "negative": -1,
                "milliseconds": 10**11 + 1,
                "huge": 10**30,
            }.items()
        ),
        pytest.param({"iat": forge.ABSENT}, "iat is missing or not a whole number of seconds since 1970", id="no-iat"),
        pytest.param({"nbf": forge.ABSENT}, "nbf is missing or not a whole number of seconds since 1970", id="no-nbf"),
        pytest.param({"exp": NOW}, "exp is not after nbf", id="exp-at-nbf"),
        pytest.param({"use": "enc"}, "use is not sig", id="use-enc"),
        pytest.param({"use": None}, "use is not sig", id="use-null"),
        pytest.param({"revoked": None}, NO_REVOCATION, id="revoked-null"),
        pytest.param({"revoked": True}, NO_REVOCATION, id="revoked-boolean"),
        pytest.param({"revoked": NOW}, NO_REVOCATION, id="revoked-number"),
        pytest.param({"revoked": [NOW]}, NO_REVOCATION, id="revoked-list"),
        pytest.param({"revoked": {"revoked_at": NOW, "reason": None}}, NO_REVOCATION, id="reason-null"),
        pytest.param({"revoked": {"revoked_at": NOW, "reason": 1}}, NO_REVOCATION, id="reason-number"),
        pytest.param({"revoked": {"revoked_at": NOW, "reason": "\ud800"}}, NO_REVOCATION, id="reason-half-a-pair"),
        pytest.param(
            {"revoked": {}}, "revoked_at is missing or not a whole number of seconds since 1970", id="no-revoked-at"
        ),
        pytest.param(
            {"revoked": {"revoked_at": "now"}},
            "revoked_at is missing or not a whole number of seconds since 1970",
            id="revoked-at-string",
        ),
        pytest.param({"d": "canary"}, "private key material in a public key (found member d)", id="private"),
        pytest.param({"y": "AA"}, "y has 1 octets (expected 32)", id="y-short"),
    ],
)
def test_a_bad_key_file_is_refused(parse, changes, says):
    assert parse().nbf == NOW
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        parse(**changes)


@pytest.mark.parametrize(
    ("kid", "shown"),
    [
        pytest.param(forge.ABSENT, "None", id="absent"),
        pytest.param(None, "None", id="null"),
        pytest.param("another", "another", id="another"),
        pytest.param("x" * 44, "x" * 43, id="long"),
        pytest.param(["kid"], "['kid']", id="list"),
        pytest.param("\x1b[2J", "'\\x1b[2J'", id="of-a-terminal"),
        pytest.param("\u202e", "'\\u202e'", id="right-to-left"),
    ],
)
def test_a_kid_that_is_not_the_thumbprint_is_refused(parse, pairs, kid, shown):
    expected = pairs["ES256"].kid
    assert parse(kid=expected).kid == expected
    says = f"kid does not match the key (found {shown}, expected {expected})"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        parse(kid=kid)


def test_a_file_name_that_is_not_the_thumbprint_is_refused(parse, pairs):
    expected = pairs["ES256"].kid
    assert parse(f"{expected}.json").kid == expected
    says = f"file name does not match the key (found key-1, expected {expected})"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        parse("key-1.json")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param("Permission denied", "cannot be read (Permission denied)", id="unreadable"),
        pytest.param(b"", "is not valid JSON", id="empty"),
        pytest.param(b"\xff", "is not UTF-8", id="not-utf-8"),
        pytest.param(b"[]", "is not a JSON object", id="list"),
        pytest.param(b'{"kid": "a", "kid": "b"}', "has a duplicate key", id="twice"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(key_files, data, says):
    name, good = next(iter(key_files.items()))
    assert parse_public_key(name, good).nbf == NOW - 100
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        parse_public_key(name, data)


# --- the schedule


@pytest.mark.parametrize(
    ("now", "states", "usable"),
    [
        pytest.param(NOW - 31, ["current", "pending"], ["old"], id="before-the-leeway"),
        pytest.param(NOW - 30, ["current", "pending"], ["old", "new"], id="leeway"),
        pytest.param(NOW - 1, ["current", "pending"], ["old", "new"], id="last-second-before-nbf"),
        pytest.param(NOW, ["retiring", "current"], ["old", "new"], id="nbf"),
        pytest.param(NOW + 359, ["retiring", "current"], ["old", "new"], id="last-second-before-exp"),
        pytest.param(NOW + 360, ["expired", "current"], ["new"], id="exp"),
    ],
)
def test_a_rotation_goes_by_the_clock(now, states, usable):
    ring = Keyring([key("new", NOW), key("old", NOW - 1000, NOW + 360)])
    assert [ring.state(k, now) for k in (ring.find("old"), ring.find("new"))] == states
    assert kids(ring.verification_keys(now, LEEWAY_S)) == usable


def test_a_revoked_key_does_nothing_at_any_time():
    ring = Keyring([key("a", NOW), key("b", NOW + 10, revoked_at=NOW + 10**6)])
    for now in (NOW - 100, NOW + 20, NOW + 10**7):
        assert ring.state(ring.find("b"), now) is KeyState.REVOKED
        assert "b" not in kids(ring.verification_keys(now, LEEWAY_S))
    assert ring.current(NOW + 20) is ring.find("a")


def test_a_stage_is_shown_as_its_word():
    assert [str(state) for state in KeyState] == ["pending", "current", "retiring", "expired", "revoked"]


def test_without_a_started_key_none_is_current():
    assert Keyring().current(NOW) is None
    assert Keyring([key("a", NOW + 1)]).current(NOW) is None
    assert Keyring([key("a", NOW - 9, NOW)]).current(NOW) is None
    assert Keyring([key("a", NOW - 9, NOW + 1)]).current(NOW).kid == "a"


def test_of_two_keys_that_start_at_once_the_later_kid_is_current():
    assert Keyring([key("b"), key("a")]).current(NOW).kid == "b"
    assert Keyring([key("a"), key("b")]).current(NOW).kid == "b"


def test_a_kid_that_is_not_there_finds_nothing(keyring, pairs):
    assert keyring.find(pairs["ES256"].kid).algorithm.name == "ES256"
    for kid in ("", "unknown", pairs["ES256"].kid[:-1], "../" + pairs["ES256"].kid, "\ud800"):
        assert keyring.find(kid) is None


def test_the_published_keys_are_those_that_verify_or_will():
    ring = Keyring(
        [
            key("pending", NOW + 1000),
            key("current", NOW - 10),
            key("retiring", NOW - 20, NOW + 1),
            key("expired", NOW - 30, NOW),
            key("revoked", NOW - 40, revoked_at=NOW),
        ]
    )
    assert ring.jwks(NOW) == [{"kid": "retiring"}, {"kid": "current"}, {"kid": "pending"}]


instants = st.integers(0, 12)
schedules = st.lists(st.tuples(instants, st.none() | st.integers(1, 8), st.none() | instants), max_size=5).map(
    lambda rows: [
        key(str(n), nbf, None if life is None else nbf + life, revoked_at)
        for n, (nbf, life, revoked_at) in enumerate(rows)
    ]
)


@given(schedules, instants)
@settings(deadline=None, max_examples=150)
def test_every_key_is_in_the_one_stage_its_dates_say(keys, now):
    ring = Keyring(keys)
    live = [k for k in keys if k.revoked_at is None and (k.exp is None or now < k.exp)]
    started = [k for k in live if k.nbf <= now]
    current = [k for k in keys if ring.state(k, now) is KeyState.CURRENT]
    assert len(current) == min(len(started), 1)
    assert (current or [None])[0] is ring.current(now)
    for k in keys:
        expected = (
            KeyState.REVOKED
            if k.revoked_at is not None
            else KeyState.EXPIRED
            if k not in live
            else KeyState.PENDING
            if k not in started
            else KeyState.CURRENT
            if k is current[0]
            else KeyState.RETIRING
        )
        assert ring.state(k, now) is expected
        assert k.nbf <= current[0].nbf if k in started else True


@given(schedules, instants, st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_a_key_verifies_while_it_signs_and_retires_and_shortly_before(keys, now, leeway_s):
    ring = Keyring(keys)
    usable = ring.verification_keys(now, leeway_s)
    for k in keys:
        state = ring.state(k, now)
        soon = state is KeyState.PENDING and k.nbf - leeway_s <= now
        assert (k in usable) == (soon or state in (KeyState.CURRENT, KeyState.RETIRING))
        assert (k.members in ring.jwks(now)) == (state not in (KeyState.EXPIRED, KeyState.REVOKED))


@given(schedules, instants, instants)
@settings(deadline=None, max_examples=150)
def test_a_key_never_comes_back_and_never_starts_twice(keys, one, other):
    ring, (before, after) = Keyring(keys), sorted((one, other))
    for k in keys:
        first, then = ring.state(k, before), ring.state(k, after)
        if first in (KeyState.EXPIRED, KeyState.REVOKED):
            assert then is first
        if then is KeyState.PENDING:
            assert first is KeyState.PENDING


@given(schedules, st.randoms())
@settings(deadline=None, max_examples=50)
def test_a_key_set_has_one_digest_in_any_order(keys, random):
    shuffled = random.sample(keys, len(keys))
    assert Keyring(shuffled).digest == Keyring(keys).digest
    assert list(Keyring(shuffled).keys) == list(Keyring(keys).keys)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param([key("a"), key("b"), key("c")], id="added"),
        pytest.param([key("a")], id="removed"),
        pytest.param([key("a"), key("b", NOW + 1)], id="nbf"),
        pytest.param([key("a"), key("b", exp=NOW + 1)], id="exp"),
        pytest.param([key("a"), key("b", revoked_at=NOW)], id="revoked"),
    ],
)
def test_a_key_set_that_decides_otherwise_has_another_digest(changed):
    same = [dataclasses.replace(key("a"), iat=0, reason="anyone's words"), key("b")]
    assert Keyring(same).digest == Keyring([key("a"), key("b")]).digest
    assert Keyring(changed).digest != Keyring([key("a"), key("b")]).digest


@given(
    st.permutations(["ES256", "EdDSA", "RS256"]),
    st.lists(st.integers(1, 1000), min_size=2, max_size=2),
    st.integers(0, 2500),
    st.integers(1, 300),
    st.data(),
)
@settings(deadline=None, max_examples=40)
def test_a_token_signed_by_the_current_key_is_verified_until_its_exp(pairs, algs, gaps, at, lifetime_s, data):
    starts = [NOW, NOW + gaps[0], NOW + sum(gaps)]
    # A rotation sets exp of the old key: nbf of the new one, the longest life of a token, twice the leeway.
    ends = [start + 300 + 2 * LEEWAY_S for start in starts[1:]]
    ring = Keyring(
        parse_public_key(
            f"{pairs[alg].kid}.json", json.dumps(pairs[alg].public | {"iat": 0, "nbf": nbf} | exp).encode()
        )
        for alg, nbf, exp in zip(algs, starts, [*({"exp": end} for end in ends), {}], strict=True)
    )
    issued_at = NOW + at
    signer = next(pair for pair in pairs.values() if pair.kid == ring.current(issued_at).kid)
    player = tokens.Player("42")
    token = issue(player, signer, rules.Policy(ISSUER, APPLICATION_ID, ring, issued_at), lifetime_s)
    # The clocks of signer and verifier may be a leeway apart, in either direction.
    seen = data.draw(st.integers(issued_at - LEEWAY_S, issued_at + lifetime_s + LEEWAY_S - 1))
    assert tokens.verify(token, rules.Policy(ISSUER, APPLICATION_ID, ring, seen)) == player


# --- the folder


@pytest.fixture
def public(keys):
    return keys / "public"


def change(path, **changes):
    members = json.loads(path.read_bytes())
    path.write_text(json.dumps(forge.changed(members, changes)))


def file_of(public, pairs, alg):
    return public / f"{pairs[alg].kid}.json"


def test_the_keys_of_a_folder_are_a_keyring(public, keyring):
    directory = KeyDirectory(public)
    assert directory.load().digest == keyring.digest
    assert directory.keyring is directory.load()
    assert directory.problems == ()


def test_nothing_is_there_before_the_first_look(public):
    assert KeyDirectory(public).keyring.keys == {}
    assert KeyDirectory(public).problems == ()


def test_the_folder_is_taken_in_again_when_its_content_changes_and_only_then(public, pairs):
    directory = KeyDirectory(public)
    assert directory.refresh() is True
    before = directory.keyring
    path = file_of(public, pairs, "ES256")
    os.utime(path, (1, 1))
    path.write_bytes(path.read_bytes())
    (public / "README.md").write_text("not a key")
    assert directory.refresh() is False
    assert directory.keyring is before
    change(path, exp=NOW + 10)
    os.utime(path, (1, 1))
    assert directory.refresh() is True
    assert directory.keyring.find(pairs["ES256"].kid).exp == NOW + 10


def test_a_key_comes_and_goes_with_its_file(public, pairs):
    directory, path = KeyDirectory(public), file_of(public, pairs, "EdDSA")
    data = path.read_bytes()
    directory.load()
    path.unlink()
    assert directory.refresh() is True
    assert (directory.keyring.find(pairs["EdDSA"].kid), len(directory.keyring.keys)) == (None, 2)
    path.write_bytes(data)
    assert directory.refresh() is True
    assert directory.keyring.find(pairs["EdDSA"].kid).nbf == NOW - 200


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not valid JSON", id="half-written"),
        pytest.param(lambda path: change(path, use="enc"), "use is not sig", id="use-enc"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), "cannot be read (Is a directory)", id="a-directory"),
        pytest.param(
            lambda path: (path.unlink(), path.symlink_to("nowhere")),
            "cannot be read (No such file or directory)",
            id="dangling-link",
        ),
    ],
)
def test_a_bad_file_disables_only_its_own_key(public, pairs, spoil, says):
    directory, path = KeyDirectory(public), file_of(public, pairs, "ES256")
    assert len(directory.load().keys) == 3
    spoil(path)
    assert directory.refresh() is True
    assert set(directory.keyring.keys) == {pairs["EdDSA"].kid, pairs["RS256"].kid}
    assert directory.problems == (f"{path}: {says}",)
    assert directory.refresh() is False
    assert directory.problems == (f"{path}: {says}",)


def test_a_revocation_is_taken_in_while_another_file_is_broken(public, pairs):
    directory = KeyDirectory(public)
    directory.load()
    file_of(public, pairs, "RS256").write_bytes(b"{")
    assert directory.refresh() is True
    change(file_of(public, pairs, "EdDSA"), revoked={"revoked_at": NOW})
    assert directory.refresh() is True
    assert directory.keyring.state(directory.keyring.find(pairs["EdDSA"].kid), NOW) is KeyState.REVOKED
    assert kids(directory.keyring.verification_keys(NOW, LEEWAY_S)) == [pairs["ES256"].kid]


def test_a_revoked_key_whose_file_breaks_stays_refused(public, pairs):
    directory, path = KeyDirectory(public), file_of(public, pairs, "EdDSA")
    directory.load()
    change(path, revoked={"revoked_at": "yesterday"})
    assert directory.refresh() is True
    assert directory.keyring.find(pairs["EdDSA"].kid) is None


def test_a_repaired_file_enables_its_key_again(public, pairs):
    directory, path = KeyDirectory(public), file_of(public, pairs, "ES256")
    good = path.read_bytes()
    path.write_bytes(b"")
    directory.refresh()
    path.write_bytes(good)
    assert directory.refresh() is True
    assert (directory.problems, len(directory.keyring.keys)) == ((), 3)


def test_a_folder_that_was_removed_leaves_no_key(public):
    directory = KeyDirectory(public)
    directory.load()
    aside = public.rename(public.with_name("aside"))
    assert directory.refresh() is True
    assert directory.keyring.keys == {}
    assert directory.problems == (f"{public}: cannot be read (No such file or directory)",)
    assert directory.refresh() is False
    aside.rename(public)
    assert directory.refresh() is True
    assert (directory.problems, len(directory.keyring.keys)) == ((), 3)


def test_a_folder_that_never_holds_still_leaves_no_key(public, monkeypatch):
    directory = KeyDirectory(public)
    directory.load()
    monkeypatch.setattr("verifier.storage.snapshot._ATTEMPTS", 0)
    assert directory.refresh() is True
    assert directory.keyring.keys == {}
    assert directory.problems == (f"{public}: cannot be read ({public} changes faster than it can be read)",)


def test_an_emptied_folder_leaves_no_key(public):
    directory = KeyDirectory(public)
    directory.load()
    shutil.rmtree(public)
    public.mkdir()
    assert directory.refresh() is True
    assert (directory.keyring.keys, directory.problems) == ({}, ())


def test_a_start_names_every_bad_file(public, pairs):
    assert len(KeyDirectory(public).load().keys) == 3
    first, second = sorted(file_of(public, pairs, alg) for alg in ("ES256", "RS256"))
    first.write_bytes(b"")
    change(second, use="enc")
    says = f"{first}: is not valid JSON; {second}: use is not sig"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$") as caught:
        KeyDirectory(public).load()
    assert caught.value.hint == "repair or remove the file; verifier keys list shows the rest"


def test_a_start_needs_the_folder_and_a_key(tmp_path):
    folder = tmp_path / "public"
    says = f"{folder}: cannot be read (No such file or directory)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        KeyDirectory(folder).load()
    folder.mkdir()
    says = f"{folder}: no key (expected <kid>.json)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$") as caught:
        KeyDirectory(folder).load()
    assert caught.value.hint == "create one: verifier keys generate"


def test_private_key_material_in_the_public_folder_is_named_and_not_shown(public, pairs):
    path = file_of(public, pairs, "ES256")
    change(path, d="canary")
    says = f"{path}: private key material in a public key (found member d)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        KeyDirectory(public).load()


# --- what is published


@pytest.mark.parametrize(
    "member",
    ['"extra": 1e999', '"extra": "anyone\'s words"', '"extra": ' + "9" * 30, '"extra": ' + "[" * 100 + "]" * 100],
    ids=["infinite", "words", "huge", "deep"],
)
def test_only_registered_members_of_a_key_file_are_published(pairs, member):
    public = pairs["ES256"].public | {"iat": NOW, "nbf": NOW, "exp": NOW + 9}
    data = json.dumps(public)[:-1] + f", {member}}}"
    ring = Keyring([parse_public_key(f"{public['kid']}.json", data.encode())])
    assert ring.jwks(NOW) == [public]


def test_a_process_out_of_descriptors_keeps_its_keys(keys, monkeypatch):
    import errno

    directory = KeyDirectory(keys / "public")
    assert directory.refresh() is True
    known = directory.keyring.digest

    def exhausted(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    for target in ("os.listdir", "os.open"):
        with monkeypatch.context() as patch:
            patch.setattr(target, exhausted)
            assert (directory.refresh(), directory.keyring.digest, directory.problems) == (False, known, ())


def test_a_pipe_among_the_keys_delays_no_read(keys):
    import os

    os.mkfifo(keys / "public" / "pipe.json")
    directory = KeyDirectory(keys / "public")
    directory.refresh()
    assert len(directory.keyring.keys) == 3
    assert directory.problems == (f"{keys / 'public'}/pipe.json: cannot be read (is a pipe, not a regular file)",)
