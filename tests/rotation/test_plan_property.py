"""Whatever commands run and however the clock moves: no good token is refused, and the audit is never silent."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier.core import rules
from verifier.core.keyring import Keyring, KeyState, PublicKey, parse_public_key
from verifier.errors import InvalidToken, KeyFileError, UnsafeOperationError
from verifier.rotation import audit, history, plan
from verifier.rotation.history import Anchor, Event, History
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy, Planner
from verifier.signing import keystore
from verifier.signing.keystore import Keystore
from verifier.storage.key_directory import KeyDirectory

DAY = 86_400
LIFE, LEEWAY = 300, 30
WINDOW = OverlapPolicy(LIFE, LEEWAY)
POOL = [forge.Pair("EdDSA", keystore.generate("EdDSA")).public for _ in range(40)]
RULES = {rule.name: rule for rule in rules.RULES}
# What the audit says about keys that end too soon.
ALARMS = {"no-current", "overlap", "successor"}


@cache
def parsed(name: str, text: str) -> PublicKey:
    return parse_public_key(name, text.encode())


def ring(members: dict[str, dict[str, Any]]) -> Keyring:
    return Keyring(parsed(f"{kid}.json", json.dumps(jwk)) for kid, jwk in members.items())


def token(kid: str, iat: int) -> rules.UnverifiedToken:
    """A token of full life, without the parts that time does not touch."""
    return rules.UnverifiedToken({"kid": kid}, {"iat": iat, "exp": iat + LIFE}, b"", b"")


def holds(names: tuple[str, ...], a_token: rules.UnverifiedToken, keyring: Keyring, now: int) -> bool:
    policy = rules.Policy(ISSUER, APPLICATION_ID, keyring, now, LEEWAY, LIFE)
    a_token = a_token._replace(key=keyring.find(a_token.header["kid"]))
    try:
        for name in names:
            RULES[name].check(a_token, policy)
    except InvalidToken:
        return False
    return True


def edges(keyring: Keyring) -> set[int]:
    """The moments around which a state changes for a clock that is right, ahead or behind."""
    dates = {date for key in keyring.keys.values() for date in (key.nbf, key.exp) if date is not None}
    return {date + offset for date in dates for offset in (-LEEWAY, -1, 0, LEEWAY - 1, LEEWAY)}


LAST = (LIFE - 1, LIFE + LEEWAY - 1, LIFE + 2 * LEEWAY - 1)  # from a signer's moment to its token's last one


class Players:
    """Who signs in all the time, by signers whose clocks are right, ahead and behind by the leeway."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}  # by kid, the iat of the youngest token by that key

    def refused(self, keyring: Keyring, begin: int, end: int) -> Iterator[str]:
        """The good tokens that a keyring refuses from begin to end."""
        turning = {begin, *edges(keyring)}
        last = {begin, *self.live.values()}
        moments = {end} | turning | {moment + later for moment in turning | last for later in LAST}
        for now in sorted(moment for moment in moments if begin <= moment <= end):
            for clock in (now - LEEWAY, now, now + LEEWAY):
                signing = keyring.current(clock)
                if signing is not None:
                    self.live[signing.kid] = max(clock, self.live.get(signing.kid, 0))
            self.live = {k: iat for k, iat in self.live.items() if holds(("exp", "iat"), token(k, iat), keyring, now)}
            for kid, iat in self.live.items():
                if not holds(("kid",), token(kid, iat), keyring, now):
                    yield f"at {now - NOW} a token of {kid[:5]} from {iat - NOW}"

    def copy(self) -> "Players":
        other = Players()
        other.live = dict(self.live)
        return other


class Rotations(RuleBasedStateMachine):
    """The commands without `--force`, on keys in memory, as the keystore carries them out."""

    forced = st.just(False)

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.members: dict[str, dict[str, Any]] = {}
        self.events: list[Event] = []
        self.players = Players()
        self.excused = False  # a command did by force what may refuse tokens
        self.left = iter(POOL)

    @property
    def keyring(self) -> Keyring:
        return ring(self.members)

    def apply(self, plan: plan.Plan, command: str) -> None:
        for step in plan:
            note(f"{self.now - NOW}: {command} {step.kid[:5]} {step.old} -> {step.new}")
            if step.members is None:
                del self.members[step.kid]
            else:
                self.members[step.kid] = dict(step.members)
            dates = {name: (step.members or {}).get(name) for name in ("nbf", "exp")}
            self.events.append(
                Event(
                    at=self.now, by="me", command=command, kid=step.kid, old=step.old, new=step.new,
                    previous_exp=step.previous_exp, **dates,
                )
            )  # fmt: skip

        if self.excused:  # the audit reads what is there, not what was removed
            self.players.live = {kid: iat for kid, iat in self.players.live.items() if kid in self.members}

    def previous_exp(self, kid: str) -> int | None:
        return history.previous_exp(self.events, kid, self.members[kid].get("exp"))

    def attempt(self, command: str, force: bool, plan: Any, revoked: PublicKey | None = None) -> None:
        """Run a command; with force only where it is refused without."""
        try:
            steps = plan(False)
        except UnsafeOperationError as refusal:
            note(f"{self.now - NOW}: {command} refused: {refusal}")
            if not force:
                return
            try:
                steps = plan(True)
            except UnsafeOperationError:
                return
            self.excused = True
        self.apply(steps, command)
        if revoked is not None:
            self.players.live.pop(revoked.kid, None)

    @initialize()
    def first(self) -> None:
        self.generate()

    @precondition(lambda self: self.keyring.current(self.now) is None)
    @rule()
    def generate(self) -> None:
        jwk = next(self.left, None)
        if jwk is not None:
            self.apply([plan.activate_first_key(jwk, now=self.now)], "generate")

    def is_pending(self) -> bool:
        return any(key.nbf > self.now and key.revoked_at is None for key in self.keyring.keys.values())

    @precondition(lambda self: not self.is_pending())
    @rule(
        data=st.data(),
        lead=st.sampled_from((PROPAGATION_S, PROPAGATION_S + 1, 3600, DAY)),
        short=st.sampled_from((0, 1, LEEWAY, 599)),
    )
    def rotate(self, data: st.DataObject, lead: int, short: int) -> None:
        jwk, force = next(self.left, None), data.draw(self.forced)
        if jwk is not None:
            lead_s = data.draw(st.sampled_from((lead, short))) if force else lead
            self.attempt(
                "rotate",
                force,
                lambda force: Planner(self.keyring, self.now, window=WINDOW, force=force).rotate(jwk, lead_s=lead_s),
            )

    @precondition(is_pending)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.attempt(
            "cancel",
            data.draw(self.forced),
            lambda force: Planner(
                self.keyring, self.now, window=WINDOW, force=force, previous_exp=self.previous_exp
            ).cancel(),
        )

    @precondition(lambda self: self.members)
    @rule(data=st.data(), replace=st.booleans())
    def revoke(self, data: st.DataObject, replace: bool) -> None:
        keyring = self.keyring
        jwk = next(self.left, None) if replace else None
        key = data.draw(st.sampled_from(list(keyring.keys.values())))
        self.attempt(
            "revoke",
            data.draw(self.forced),
            lambda force: Planner(
                keyring, self.now, window=WINDOW, force=force, previous_exp=self.previous_exp
            ).revoke(key, "lost", jwk),
            revoked=key,
        )  # fmt: skip

    @precondition(lambda self: len(self.members) > 1)
    @rule(retention=st.sampled_from((0, DAY)))
    def prune(self, retention: int) -> None:
        self.apply(Planner(self.keyring, self.now).prune(retention_s=retention), "prune")

    @rule(nth=st.integers(0, 9))
    def wait_until_something_changes(self, nth: int) -> None:
        soon = sorted(edge + life for edge in edges(self.keyring) for life in (0, LIFE) if edge + life > self.now)
        if soon:
            self.wait(soon[min(nth, len(soon) - 1)] - self.now)

    @rule(seconds=st.integers(1, 4000))
    def wait(self, seconds: int) -> None:
        begin, self.now = self.now, self.now + seconds
        note(f"{begin - NOW}: wait until {self.now - NOW}")
        found = list(self.players.refused(self.keyring, begin, self.now))
        assert self.excused or not found, found[0]

    @invariant()
    def no_good_token_is_refused(self) -> None:
        found = list(self.players.refused(self.keyring, self.now, self.now))
        assert self.excused or not found, found[0]

    @invariant()
    def the_audit_is_not_silent(self) -> None:
        keyring = self.keyring
        end = max((*edges(keyring), self.now)) + LIFE + 2 * LEEWAY
        signless = [now for now in {self.now, *edges(keyring)} if self.now <= now and keyring.current(now) is None]
        refused = list(self.players.copy().refused(keyring, self.now, end))
        if not (signless or refused):
            return
        alarms = {finding.rule for finding in audit.findings(state(keyring, self.now))} & ALARMS
        assert alarms, (refused or signless)[0]


class ForcedRotations(Rotations):
    """The same with `--force`: tokens may be refused then, never silently."""

    forced = st.booleans()


def state(keyring: Keyring, now: int) -> Inventory:
    return Inventory(
        folder=Path("keys"), now=now, keyring=keyring, problems=(), files=(), history=History((), ()),
        anchor=Anchor.of(b""), window=WINDOW,
    )  # fmt: skip


LIMITS = settings(
    max_examples=200,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes
    print_blob=False,
)
TestWithoutForce = Rotations.TestCase
TestWithoutForce.settings = LIMITS
TestWithForce = ForcedRotations.TestCase
TestWithForce.settings = LIMITS


# What a machine can find, one by one, and ten rotations on disk.


@pytest.fixture
def first() -> Keyring:
    return after(Keyring(), [plan.activate_first_key(POOL[0], now=NOW)])


@pytest.fixture
def rotated(first) -> Keyring:
    """The first key, and one that signs an hour later."""
    return after(first, Planner(first, NOW, window=WINDOW).rotate(POOL[1]))


SWITCH = NOW + 3600


def after(keyring: Keyring, plan: plan.Plan) -> Keyring:
    members = {key.kid: dict(key.members) for key in keyring.keys.values()} | {s.kid: s.members for s in plan}
    return ring({kid: jwk for kid, jwk in members.items() if jwk is not None})


def test_a_key_is_not_cancelled_when_a_signer_may_use_it_before_it_hears_of_that(rotated):
    late = SWITCH - PROPAGATION_S + 1
    assert Planner(rotated, late - 1).cancel()
    with pytest.raises(
        UnsafeOperationError,
        match=r"^the key becomes active too soon for every signer to read this \(found 599 s",
    ):
        Planner(rotated, late).cancel()
    assert Planner(rotated, late, force=True).cancel()


def test_cancel_gives_no_end_back_before_the_last_token_has_expired(rotated):
    cancelled = after(rotated, Planner(rotated, NOW + 60, window=WINDOW, previous_exp=lambda _: NOW + 90).cancel())
    assert cancelled.current(NOW + 60).exp == NOW + 60 + WINDOW.overlap_s


def test_a_retiring_key_does_not_take_the_place_of_a_revoked_one(rotated):
    new = rotated.current(SWITCH)
    with pytest.raises(UnsafeOperationError, match=r"^no other key can sign after 2027-01-15 09:06:00 "):
        Planner(rotated, SWITCH, window=WINDOW).revoke(new, "lost")
    assert Planner(rotated, SWITCH, window=WINDOW, force=True).revoke(new, "lost")


def test_a_key_that_does_not_sign_is_not_replaced(rotated):
    old = rotated.find(POOL[0]["kid"])
    steps = Planner(rotated, SWITCH, window=WINDOW).revoke(old, "lost", replacement=POOL[2])
    assert [step.kid for step in steps] == [old.kid]
    assert after(rotated, steps).current(SWITCH).kid == POOL[1]["kid"]


@pytest.mark.parametrize("kids", [(0, 1), (1, 0)])
def test_a_key_rotated_in_within_the_second_in_which_the_first_was_made_signs(kids):
    first, second = (POOL[n] for n in kids)
    keyring = after(Keyring(), [plan.activate_first_key(first, now=NOW)])
    keyring = after(keyring, Planner(keyring, NOW, force=True).rotate(second, lead_s=0))
    assert keyring.current(NOW).kid == second["kid"]
    assert keyring.state(keyring.find(first["kid"]), NOW) is KeyState.RETIRING


def test_a_signer_whose_clock_is_behind_does_not_go_back_to_a_retiring_key(rotated):
    now = SWITCH + 100
    steps = Planner(rotated, now, window=WINDOW).revoke(rotated.current(now), "lost", replacement=POOL[2])
    assert after(rotated, steps).current(now - LEEWAY).kid == POOL[2]["kid"]


def test_the_audit_names_a_key_that_expired_before_its_tokens_did():
    ends = {**POOL[0], "iat": NOW, "nbf": NOW, "exp": SWITCH}
    keyring = ring({POOL[0]["kid"]: ends, POOL[1]["kid"]: {**POOL[1], "iat": NOW, "nbf": SWITCH}})
    for now, alarms in ((SWITCH - 1, 1), (SWITCH, 1), (SWITCH + 359, 1), (SWITCH + 360, 0)):
        found = [f.rule for f in audit.findings(state(keyring, now)) if f.rule in ALARMS]
        assert found == ["overlap"] * alarms


@pytest.mark.parametrize(("later", "alarms"), [(LEEWAY - 1, 1), (LEEWAY, 0)])
def test_the_audit_names_a_key_to_which_a_signer_goes_back_after_a_revocation(later, alarms):
    """The key between is revoked when a signer whose clock is behind does not use the newest one yet."""
    newest = SWITCH + 90
    between = {**POOL[1], "iat": NOW, "nbf": SWITCH, "revoked": {"revoked_at": newest + later, "reason": "lost"}}
    ends = {**POOL[0], "iat": NOW, "nbf": NOW, "exp": SWITCH + WINDOW.overlap_s}
    keyring = ring({jwk["kid"]: jwk for jwk in (ends, between, {**POOL[2], "iat": newest, "nbf": newest})})
    for now, count in ((newest + WINDOW.overlap_s - 1, alarms), (newest + WINDOW.overlap_s, 0)):
        assert [f.rule for f in audit.findings(state(keyring, now)) if f.rule in ALARMS] == ["overlap"] * count


def test_nothing_is_published_that_no_server_would_read(tmp_path):
    store = Keystore(tmp_path)
    with store.transaction(), pytest.raises(KeyFileError, match=r"(?m)^exp is not after nbf$"):
        store.apply([plan.activate_first_key({**POOL[0], "nbf": NOW, "exp": NOW}, now=NOW)], "import", now=NOW)
    assert list(store.public.folder.iterdir()) == []
    assert store.read_history() == b""


def test_an_imported_key_keeps_its_own_end_when_the_next_one_is_cancelled(tmp_path):
    store = Keystore(tmp_path)
    with store.transaction():
        jwks = [{**POOL[0], "exp": NOW + DAY}, {**POOL[1], "nbf": NOW + 7200}]
        store.apply([plan.activate_first_key(jwk, now=NOW) for jwk in jwks], "import", now=NOW)
        assert store.previous_exp(POOL[0]["kid"]) == NOW + DAY


def test_ten_rotations_leave_exactly_the_files_stages_and_history_of_the_rules(tmp_path):
    store = Keystore(tmp_path)
    told: list[tuple[Any, ...]] = []
    kids: list[str] = []

    def introduced(plan: plan.Plan, jwk: dict[str, Any], pem: str, command: str, now: int) -> None:
        store.apply(plan, command, now=now, pem=pem)
        kids.append(jwk["kid"])

    with store.transaction():
        jwk, pem = store.generate_pair("ES256")
        introduced([plan.activate_first_key(jwk, now=NOW)], jwk, pem, "generate", NOW)
    told.append((NOW, "generate", kids[0], "none", "current", NOW, None, None))
    begins = [NOW]
    for number in range(1, 11):
        now = NOW + number * 80 * DAY
        begin, end = now + 3600, now + 3600 + 360
        with freeze_time(datetime.fromtimestamp(now, UTC)), store.transaction() as keyring:
            jwk, pem = store.generate_pair("ES256")
            introduced(Planner(keyring, now).rotate(jwk), jwk, pem, "rotate", now)
        told.append((now, "rotate", kids[-1], "none", "pending", begin, None, None))
        told.append((now, "rotate", kids[-2], "current", "current", begins[-1], end, None))
        begins.append(begin)
        with freeze_time(datetime.fromtimestamp(begin, UTC)), store.transaction() as keyring:
            assert [keyring.state(keyring.find(kid), begin - 1) for kid in kids[-2:]] == [
                KeyState.CURRENT,
                KeyState.PENDING,
            ]
            assert [keyring.state(keyring.find(kid), begin) for kid in kids[-2:]] == [
                KeyState.RETIRING,
                KeyState.CURRENT,
            ]
            store.apply(Planner(keyring, begin + 30).prune(), "prune", now=begin + 30)
        # What ended 400 days ago goes: at the seventh rotation the first, six minutes younger at the sixth.
        if number > 6:
            told.append((begin + 30, "prune", kids[number - 7], "expired", "gone", None, None, None))
        told.append((begin + 30, "prune", kids[-2], "retiring", "retiring", begins[-2], end, None))
    log = history.load(store.read_history())
    fields = ("at", "command", "kid", "old", "new", "nbf", "exp", "previous_exp")
    assert [tuple(getattr(event, field) for field in fields) for event in log.events] == told
    assert log.problems == ()
    left = kids[4:]
    assert sorted(path.name for path in store.public.folder.iterdir()) == sorted(f"{kid}.json" for kid in left)
    assert [path.name for path in store.private.glob("*.pem")] == [f"{kids[-1]}.pem"]
    found = KeyDirectory(store.public.folder).load()
    ends = [begin + 360 for begin in begins[5:]] + [None]
    assert [(key.kid, key.iat, key.nbf, key.exp) for key in found.keys.values()] == [
        (kid, NOW + number * 80 * DAY, begins[number], end)
        for number, kid, end in zip(range(4, 11), left, ends, strict=True)
    ]
    now = begins[-1] + 360
    states = [found.state(key, now) for key in found.keys.values()]
    assert states == [KeyState.EXPIRED] * 6 + [KeyState.CURRENT]
    seen = audit.Inventory.read(tmp_path, now=now, window=WINDOW, applications=None, cryptoperiod_s=90 * DAY)
    assert audit.findings(seen) == []
