"""Plans: which change of keys is safe, decided before anything is written."""

import json
import re
from typing import Any

import pytest

from tests.conftest import NOW
from tests.support import forge
from verifier.core.keyring import Keyring, KeyState, parse_public_key
from verifier.core.times import LEAD_S
from verifier.errors import UnsafeOperationError
from verifier.rotation import plan
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy
from verifier.signing import keystore

WINDOW = OverlapPolicy(300, 30)


@pytest.fixture(scope="module")
def jwks() -> list[dict[str, Any]]:
    return [forge.Pair("ES256", keystore.generate("ES256")).public for _ in range(4)]


def ring(*members: dict[str, Any]) -> Keyring:
    return Keyring(parse_public_key(f"{m['kid']}.json", json.dumps(m).encode()) for m in members)


def after(keyring: Keyring, changes: plan.Plan) -> Keyring:
    """The keyring once a plan is carried out."""
    members = {key.kid: dict(key.members) for key in keyring.keys.values()}
    for step in changes:
        members[step.kid] = step.members
    return ring(*(m for m in members.values() if m is not None))


def refuse(says: str, function, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UnsafeOperationError, match=f"^{re.escape(says)}"):
        function(*arguments, **options)


@pytest.fixture
def first(jwks) -> Keyring:
    return after(Keyring(), [plan.activate_first_key(jwks[0], now=NOW)])


@pytest.fixture
def rotated(first, jwks) -> Keyring:
    return after(first, plan.rotate(first, jwks[1], now=NOW, lead_s=3600))


def states(keyring: Keyring, now: int) -> list[KeyState]:
    return [keyring.state(key, now) for key in keyring.keys.values()]


def test_the_first_key_signs_at_once(first):
    assert states(first, NOW) == [KeyState.CURRENT]


def test_a_rotation_ends_the_old_key_when_its_last_token_has_expired_by_every_clock(first, jwks):
    new, old = plan.rotate(first, jwks[1], now=NOW, lead_s=3600, window=WINDOW)
    assert (new.old, new.new, new.members["nbf"], "exp" in new.members) == ("none", "pending", NOW + 3600, False)
    assert (old.old, old.new, old.members["exp"], old.previous_exp) == ("current", "current", NOW + 3600 + 360, None)


def test_signers_and_verifiers_switch_by_the_clock(rotated):
    switch = NOW + 3600
    assert states(rotated, switch - 1) == [KeyState.CURRENT, KeyState.PENDING]
    assert states(rotated, switch) == [KeyState.RETIRING, KeyState.CURRENT]
    assert states(rotated, switch + 359) == [KeyState.RETIRING, KeyState.CURRENT]
    assert states(rotated, switch + 360) == [KeyState.EXPIRED, KeyState.CURRENT]


def test_a_second_pending_key_is_refused_even_with_force(rotated, jwks):
    refuse("a key is pending already", plan.rotate, rotated, jwks[2], now=NOW, force=True)


def test_a_lead_below_the_propagation_window_needs_force(first, jwks):
    assert plan.rotate(first, jwks[1], now=NOW, lead_s=PROPAGATION_S)
    says = "the lead is too short for every replica to have the key (found 599 s, expected 600 s)"
    refuse(says, plan.rotate, first, jwks[1], now=NOW, lead_s=PROPAGATION_S - 1)
    at_once = plan.rotate(first, jwks[1], now=NOW, lead_s=0, force=True)
    assert [step.new for step in at_once] == ["current", "retiring"]


def test_a_current_key_that_ends_too_soon_is_not_rotated_without_force(first, jwks):
    exp = NOW + 3600 + WINDOW.overlap_s

    def ending(at: int) -> Keyring:
        return ring(dict(first.current(NOW).members) | {"exp": at})

    assert plan.rotate(ending(exp), jwks[1], now=NOW)[1].members["exp"] == exp
    refuse("the current key expires too soon", plan.rotate, ending(exp - 1), jwks[1], now=NOW)
    forced = plan.rotate(ending(exp - 1), jwks[1], now=NOW, force=True)
    assert (forced[1].members["exp"], forced[1].previous_exp) == (exp, exp - 1)


def test_nothing_is_rotated_without_a_current_key(jwks):
    refuse("no key is current", plan.rotate, Keyring(), jwks[0], now=NOW)


def test_cancel_leaves_what_was_there_before_the_rotation(first, rotated):
    assert after(rotated, plan.cancel(rotated, now=NOW, previous_exp=lambda _: None)).digest == first.digest
    with_end = after(rotated, plan.cancel(rotated, now=NOW, previous_exp=lambda _: NOW + 9000))
    assert with_end.current(NOW).exp == NOW + 9000


def test_cancel_changes_nothing_of_a_current_key_without_an_end(first, jwks):
    # Two keys put there by hand: no rotation gave the current one an end.
    pending = jwks[1] | {"iat": NOW, "nbf": NOW + 3600}
    keyring = ring(dict(first.current(NOW).members), pending)
    (step,) = plan.cancel(keyring, now=NOW, previous_exp=lambda _: None)
    assert (step.kid, step.members) == (jwks[1]["kid"], None)


def test_a_key_that_becomes_active_soon_is_not_cancelled_without_force(rotated):
    now = NOW + 3600 - PROPAGATION_S
    assert plan.cancel(rotated, now=now, previous_exp=lambda _: None)[-1].new == "gone"
    says = "the key becomes active too soon for every signer to learn of this (found 599 s, expected 600 s or more)"
    refuse(says, plan.cancel, rotated, now=now + 1, previous_exp=lambda _: None)
    forced = plan.cancel(rotated, now=now + 1, previous_exp=lambda _: None, force=True)
    assert (forced[-1].members, forced[-1].new) == (None, "gone")


def test_cancel_without_a_pending_key_is_refused(first, rotated):
    refuse("no key is pending", plan.cancel, first, now=NOW, previous_exp=lambda _: None)
    refuse("no key is pending", plan.cancel, rotated, now=NOW + 3600, previous_exp=lambda _: None)


def test_a_prefix_that_no_pending_key_has_is_refused(rotated, jwks):
    kid = jwks[1]["kid"]
    assert plan.choose_pending(rotated, NOW, kid[:8]).kid == kid
    says = f"no pending key matches '~' (found {kid} (active from 2027-01-15 09:00:00 UTC))"
    refuse(says, plan.choose_pending, rotated, NOW, "~")


@pytest.fixture
def only_pending(jwks) -> Keyring:
    """A first key that was published by hand before it signs."""
    return ring(jwks[0] | {"iat": NOW, "nbf": NOW + 7200})


def test_the_only_pending_key_is_not_revoked_without_force_or_replacement(only_pending):
    (pending,) = only_pending.keys.values()
    refuse("no other key can sign", plan.revoke, only_pending, pending, "leaked", now=NOW)
    (step,) = plan.revoke(only_pending, pending, "leaked", now=NOW, force=True)
    assert (step.kid, step.old, step.new) == (pending.kid, "pending", "revoked")


def test_the_replacement_of_the_only_pending_key_is_current(only_pending, jwks):
    (pending,) = only_pending.keys.values()
    changed = after(only_pending, plan.revoke(only_pending, pending, "leaked", now=NOW, replacement=jwks[1]))
    assert {key.kid: changed.state(key, NOW) for key in changed.keys.values()} == {
        pending.kid: KeyState.REVOKED,
        jwks[1]["kid"]: KeyState.CURRENT,
    }
    assert changed.current(NOW).nbf == NOW - OverlapPolicy().leeway_s


def test_a_current_key_without_an_end_is_left_as_it_is_when_the_pending_key_is_replaced(first, jwks):
    keyring = ring(dict(first.current(NOW).members), jwks[1] | {"iat": NOW, "nbf": NOW + 7200})
    added, revoked = plan.revoke(keyring, keyring.find(jwks[1]["kid"]), "leaked", now=NOW, replacement=jwks[2])
    assert (added.kid, added.new, added.members["nbf"]) == (jwks[2]["kid"], "pending", NOW + 7200)
    assert (revoked.kid, revoked.new) == (jwks[1]["kid"], "revoked")


def test_the_only_key_is_not_revoked_without_force_or_replacement(first, jwks):
    key = first.current(NOW)
    refuse("no other key can sign", plan.revoke, first, key, "leaked", now=NOW)
    (step,) = plan.revoke(first, key, "leaked", now=NOW, force=True)
    assert step.members["revoked"] == {"revoked_at": NOW, "reason": "leaked"}
    replaced = after(first, plan.revoke(first, key, "leaked", now=NOW, replacement=jwks[1]))
    assert {k.kid: replaced.state(k, NOW) for k in replaced.keys.values()} == {
        key.kid: KeyState.REVOKED,
        jwks[1]["kid"]: KeyState.CURRENT,
    }


def test_a_replacement_is_the_pending_key_where_there_is_one(rotated, jwks):
    key = rotated.current(NOW)
    replaced = after(rotated, plan.revoke(rotated, key, "leaked", now=NOW, replacement=jwks[2]))
    assert replaced.current(NOW).kid == jwks[1]["kid"]
    assert jwks[2]["kid"] not in replaced.keys


def test_a_current_key_is_revoked_only_beside_one_that_can_sign_until_the_next_is_rotated_in(rotated):
    now = NOW + 3600
    old, new = rotated.keys.values()
    assert plan.revoke(rotated, old, "lost", now=now)[0].new == "revoked"
    refuse("no other key can sign after ", plan.revoke, rotated, new, "lost", now=now)
    enough = now + LEAD_S + WINDOW.overlap_s
    for exp, refused in ((enough - 1, True), (enough, False), (None, False)):
        older = dict(old.members) | {"exp": exp}
        keyring = ring({name: value for name, value in older.items() if value is not None}, dict(new.members))
        if refused:
            refuse("no other key can sign after ", plan.revoke, keyring, keyring.find(new.kid), "lost", now=now)
        else:
            assert plan.revoke(keyring, keyring.find(new.kid), "lost", now=now)[0].old == "current"


def test_revoking_the_pending_key_gives_the_current_one_its_end_back(rotated):
    _, pending = rotated.keys.values()
    changed = after(rotated, plan.revoke(rotated, pending, "leaked", now=NOW))
    assert changed.current(NOW).exp is None
    assert states(changed, NOW) == [KeyState.CURRENT, KeyState.REVOKED]


def test_an_expired_key_can_be_revoked_and_a_revoked_one_not_again(rotated):
    old, _ = rotated.keys.values()
    (compromised,) = plan.revoke(rotated, old, "x", now=NOW + 4000)  # NIST SP 800-57 Part 1 §7: known too late
    assert (compromised.old, compromised.new) == ("expired", "revoked")
    revoked = after(rotated, plan.revoke(rotated, old, "x", now=NOW + 3700))
    refuse("the key is revoked already", plan.revoke, revoked, revoked.find(old.kid), "x", now=NOW + 3701)


def test_prune_without_a_current_key_removes_the_private_key_of_one_that_has_ended(first):
    ended = ring(dict(first.current(NOW).members) | {"exp": NOW + 10})
    assert plan.prune(ended, now=NOW + 9) == []
    (step,) = plan.prune(ended, now=NOW + 10)
    assert (step.old, step.new, step.drop_private) == ("expired", "expired", True)


def test_prune_removes_private_keys_that_no_longer_sign_and_files_out_of_retention(rotated):
    old, _ = rotated.keys.values()
    assert plan.prune(rotated, now=NOW) == []
    assert plan.prune(rotated, now=NOW + 3629) == []
    (retiring,) = plan.prune(rotated, now=NOW + 3630)
    assert (retiring.kid, retiring.members, retiring.drop_private) == (old.kid, old.members, True)
    end = NOW + 3960
    (kept,) = plan.prune(rotated, now=end + 999, retention_s=1000)
    assert (kept.members, kept.new) == (old.members, "expired")
    (gone,) = plan.prune(rotated, now=end + 1000, retention_s=1000)
    assert (gone.members, gone.new) == (None, "gone")
