"""What a replica may not differ in."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import past as past  # a fixture
from verifier.rotation import replica_checks
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.replicas import Replica


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({}, []),
        ({"max_lifetime_s": 300, "leeway_s": 30}, []),
        ({"max_lifetime_s": 301}, ["https://a: the maximum lifetime is 301 s, expected 300 s"]),
        ({"leeway_s": 0}, ["https://a: the leeway is 0 s, expected 30 s"]),
    ],
)
def test_a_replica_with_other_settings_is_found(found, text):
    inventory = SimpleNamespace(replicas=(Replica("https://a", **found),), window=OverlapPolicy(300, 30))
    assert list(replica_checks.settings(inventory)) == text


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (15, []),
        (-15, []),
        (16, ["https://a: its clock is 16 s fast, at most 15 s"]),
        (-16, ["https://a: its clock is 16 s slow, at most 15 s"]),
        (None, ["https://a sends no Date, so that its clock is unknown"]),
    ],
)
def test_a_replica_with_another_clock_is_found(offset, text):
    inventory = SimpleNamespace(replicas=(Replica("https://a", clock_offset_s=offset),), window=OverlapPolicy(300, 30))
    assert list(replica_checks.clocks(inventory)) == text


def test_a_replica_that_lists_keys_that_its_digest_does_not_have_is_found(past):
    past.generate("ES256", NOW)
    state, kid = past.state(), past.kids["ES256"]
    honest = Replica("http://a", state.keyring.digest, (kid,), ready=True)
    liar = replace(honest, url="http://b", kids=(kid, "foreign"))
    assert [replica_checks.same(state, replica) for replica in (honest, liar)] == [True, False]
    assert list(replica_checks.differs(replace(state, replicas=(honest, liar)))) == ["http://b still has foreign"]
