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
from verifier.rotation.history import Event
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy, Planner
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
    return after(first, Planner(first, NOW).rotate(jwks[1], lead_s=3600))


def states(keyring: Keyring, now: int) -> list[KeyState]:
    return [keyring.state(key, now) for key in keyring.keys.values()]


def test_the_first_key_signs_at_once(first):
    assert states(first, NOW) == [KeyState.CURRENT]


def test_a_rotation_ends_the_old_key_when_its_last_token_has_expired_by_every_clock(first, jwks):
    new, old = Planner(first, NOW, window=WINDOW).rotate(jwks[1], lead_s=3600)
    assert (new.old, new.new, new.members["nbf"], "exp" in new.members) == ("none", "pending", NOW + 3600, False)
    assert (old.old, old.new, old.members["exp"], old.previous_exp) == ("current", "current", NOW + 3600 + 360, None)


def test_signers_and_verifiers_switch_by_the_clock(rotated):
    switch = NOW + 3600
    assert states(rotated, switch - 1) == [KeyState.CURRENT, KeyState.PENDING]
    assert states(rotated, switch) == [KeyState.RETIRING, KeyState.CURRENT]
    assert states(rotated, switch + 359) == [KeyState.RETIRING, KeyState.CURRENT]
    assert states(rotated, switch + 360) == [KeyState.EXPIRED, KeyState.CURRENT]


def test_a_second_pending_key_is_refused_even_with_force(rotated, jwks):
    refuse("a key is pending already", Planner(rotated, NOW, force=True).rotate, jwks[2])


def test_a_lead_below_the_propagation_window_needs_force(first, jwks):
    assert Planner(first, NOW).rotate(jwks[1], lead_s=PROPAGATION_S)
    says = "the lead is too short for every replica to have the key (found 599 s, expected 600 s)"
    refuse(says, Planner(first, NOW).rotate, jwks[1], lead_s=PROPAGATION_S - 1)
    at_once = Planner(first, NOW, force=True).rotate(jwks[1], lead_s=0)
    assert [step.new for step in at_once] == ["current", "retiring"]


def test_a_current_key_that_ends_too_soon_is_not_rotated_without_force(first, jwks):
    exp = NOW + 3600 + WINDOW.overlap_s

    def ending(at: int) -> Keyring:
        return ring(dict(first.current(NOW).members) | {"exp": at})

    assert Planner(ending(exp), NOW).rotate(jwks[1])[1].members["exp"] == exp
    refuse("the current key expires too soon", Planner(ending(exp - 1), NOW).rotate, jwks[1])
    forced = Planner(ending(exp - 1), NOW, force=True).rotate(jwks[1])
    assert (forced[1].members["exp"], forced[1].previous_exp) == (exp, exp - 1)


def test_nothing_is_rotated_without_a_current_key(jwks):
    refuse("no key is current", Planner(Keyring(), NOW).rotate, jwks[0])


def test_cancel_leaves_what_was_there_before_the_rotation(first, rotated):
    assert after(rotated, Planner(rotated, NOW).cancel()).digest == first.digest
    with_end = after(rotated, Planner(rotated, NOW, previous_exp=lambda _: NOW + 9000).cancel())
    assert with_end.current(NOW).exp == NOW + 9000


def test_cancel_changes_nothing_of_a_current_key_without_an_end(first, jwks):
    # Two keys put there by hand: no rotation gave the current one an end.
    pending = jwks[1] | {"iat": NOW, "nbf": NOW + 3600}
    keyring = ring(dict(first.current(NOW).members), pending)
    (step,) = Planner(keyring, NOW).cancel()
    assert (step.kid, step.members) == (jwks[1]["kid"], None)


def test_a_key_that_becomes_active_soon_is_not_cancelled_without_force(rotated):
    now = NOW + 3600 - PROPAGATION_S
    assert Planner(rotated, now).cancel()[-1].new == "gone"
    says = "the key becomes active too soon for every signer to read this (found 599 s, expected 600 s or more)"
    refuse(says, Planner(rotated, now + 1).cancel)
    forced = Planner(rotated, now + 1, force=True).cancel()
    assert (forced[-1].members, forced[-1].new) == (None, "gone")


def test_cancel_without_a_pending_key_is_refused(first, rotated):
    refuse("no key is pending", Planner(first, NOW).cancel)
    refuse("no key is pending", Planner(rotated, NOW + 3600).cancel)


def test_a_prefix_that_no_pending_key_has_is_refused(rotated, jwks):
    kid = jwks[1]["kid"]
    assert Planner(rotated, NOW).cancel(kid[:8])[-1].kid == kid
    says = f"no pending key matches '~' (found {kid} (active from 2027-01-15 09:00:00 UTC))"
    refuse(says, Planner(rotated, NOW).cancel, "~")


@pytest.fixture
def only_pending(jwks) -> Keyring:
    """A first key that was published by hand before it signs."""
    return ring(jwks[0] | {"iat": NOW, "nbf": NOW + 7200})


def test_the_only_pending_key_is_not_revoked_without_force_or_replacement(only_pending):
    (pending,) = only_pending.keys.values()
    refuse("no other key can sign", Planner(only_pending, NOW).revoke, pending, "leaked")
    (step,) = Planner(only_pending, NOW, force=True).revoke(pending, "leaked")
    assert (step.kid, step.old, step.new) == (pending.kid, "pending", "revoked")


def test_the_replacement_of_the_only_pending_key_is_current(only_pending, jwks):
    (pending,) = only_pending.keys.values()
    changed = after(only_pending, Planner(only_pending, NOW).revoke(pending, "leaked", replacement=jwks[1]))
    assert {key.kid: changed.state(key, NOW) for key in changed.keys.values()} == {
        pending.kid: KeyState.REVOKED,
        jwks[1]["kid"]: KeyState.CURRENT,
    }
    assert changed.current(NOW).nbf == NOW - OverlapPolicy().leeway_s


def test_a_current_key_without_an_end_is_left_as_it_is_when_the_pending_key_is_replaced(first, jwks):
    keyring = ring(dict(first.current(NOW).members), jwks[1] | {"iat": NOW, "nbf": NOW + 7200})
    added, revoked = Planner(keyring, NOW).revoke(keyring.find(jwks[1]["kid"]), "leaked", replacement=jwks[2])
    assert (added.kid, added.new, added.members["nbf"]) == (jwks[2]["kid"], "pending", NOW + 7200)
    assert (revoked.kid, revoked.new) == (jwks[1]["kid"], "revoked")


def test_the_only_key_is_not_revoked_without_force_or_replacement(first, jwks):
    key = first.current(NOW)
    refuse("no other key can sign", Planner(first, NOW).revoke, key, "leaked")
    (step,) = Planner(first, NOW, force=True).revoke(key, "leaked")
    assert step.members["revoked"] == {"revoked_at": NOW, "reason": "leaked"}
    replaced = after(first, Planner(first, NOW).revoke(key, "leaked", replacement=jwks[1]))
    assert {k.kid: replaced.state(k, NOW) for k in replaced.keys.values()} == {
        key.kid: KeyState.REVOKED,
        jwks[1]["kid"]: KeyState.CURRENT,
    }


def test_a_replacement_is_the_pending_key_where_there_is_one(rotated, jwks):
    key = rotated.current(NOW)
    replaced = after(rotated, Planner(rotated, NOW).revoke(key, "leaked", replacement=jwks[2]))
    assert replaced.current(NOW).kid == jwks[1]["kid"]
    assert jwks[2]["kid"] not in replaced.keys


def test_a_current_key_is_revoked_only_beside_one_that_can_sign_until_the_next_is_rotated_in(rotated):
    now = NOW + 3600
    old, new = rotated.keys.values()
    assert Planner(rotated, now).revoke(old, "lost")[0].new == "revoked"
    refuse("no other key can sign after ", Planner(rotated, now).revoke, new, "lost")
    enough = now + LEAD_S + WINDOW.overlap_s
    for exp, refused in ((enough - 1, True), (enough, False), (None, False)):
        older = dict(old.members) | {"exp": exp}
        keyring = ring({name: value for name, value in older.items() if value is not None}, dict(new.members))
        if refused:
            refuse("no other key can sign after ", Planner(keyring, now).revoke, keyring.find(new.kid), "lost")
        else:
            assert Planner(keyring, now).revoke(keyring.find(new.kid), "lost")[0].old == "current"


def test_revoking_the_pending_key_gives_the_current_one_its_end_back(rotated):
    _, pending = rotated.keys.values()
    changed = after(rotated, Planner(rotated, NOW).revoke(pending, "leaked"))
    assert changed.current(NOW).exp is None
    assert states(changed, NOW) == [KeyState.CURRENT, KeyState.REVOKED]


def test_an_expired_key_can_be_revoked_and_a_revoked_one_not_again(rotated):
    old, _ = rotated.keys.values()
    (compromised,) = Planner(rotated, NOW + 4000).revoke(old, "x")  # NIST SP 800-57 Part 1 §7: known too late
    assert (compromised.old, compromised.new) == ("expired", "revoked")
    revoked = after(rotated, Planner(rotated, NOW + 3700).revoke(old, "x"))
    refuse("the key is revoked already", Planner(revoked, NOW + 3701).revoke, revoked.find(old.kid), "x")


def test_prune_waits_until_every_replica_can_have_the_current_key(rotated, jwks):
    def published(kid: str, at: int, old: str = "none") -> Event:
        return Event(at=at, by="ann", command="rotate", kid=kid, old=old, new="pending")

    current, other = jwks[1]["kid"], jwks[0]["kid"]
    late = NOW + 3300
    events = [published(current, late), published(other, late + 9), published(current, late + 9, old="pending")]
    assert Planner(rotated, late + PROPAGATION_S - 1).prune(events=events) == []
    assert len(Planner(rotated, late + PROPAGATION_S).prune(events=events)) == 1


def test_prune_without_a_current_key_removes_the_private_key_of_one_that_has_ended(first):
    ended = ring(dict(first.current(NOW).members) | {"exp": NOW + 10})
    assert Planner(ended, NOW + 9).prune() == []
    (step,) = Planner(ended, NOW + 10).prune()
    assert (step.old, step.new, step.drop_private) == ("expired", "expired", True)


def test_prune_removes_private_keys_that_no_longer_sign_and_files_out_of_retention(rotated):
    old, _ = rotated.keys.values()
    assert Planner(rotated, NOW).prune() == []
    assert Planner(rotated, NOW + 3629).prune() == []
    (retiring,) = Planner(rotated, NOW + 3630).prune()
    assert (retiring.kid, retiring.members, retiring.drop_private) == (old.kid, old.members, True)
    end = NOW + 3960
    (kept,) = Planner(rotated, end + 999).prune(retention_s=1000)
    assert (kept.members, kept.new) == (old.members, "expired")
    (gone,) = Planner(rotated, end + 1000).prune(retention_s=1000)
    assert (gone.members, gone.new) == (None, "gone")
