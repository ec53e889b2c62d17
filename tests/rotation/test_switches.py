"""A switch is judged by the values that its lines record, and by the confirmations of the replicas."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NOW
from tests.rotation.test_report import Outline
from tests.rotation.test_report import past as past  # a fixture
from verifier.core.times import utc
from verifier.errors import ConfigError
from verifier.rotation import audit, history, report, switch_checks
from verifier.rotation.history import Confirmation, Event
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.replicas import Replica

DAY = 86_400
SWITCH = NOW - DAY + 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "history.jsonl"


def confirm(log: Path, at: int, *results: bool, **values: Any) -> None:
    common: dict[str, Any] = {"at": at, "by": "ann", "command": "confirm", "key_set_digest": "d"} | values
    lines = [Confirmation(replica=f"http://{n}", confirmed=good, **common) for n, good in enumerate(results)]
    log.write_bytes(history.append(log.read_bytes(), lines))


def found(past: Any, rule: str, **options: Any) -> list[str]:
    return [finding.found for finding in audit.findings(past.state(**options)) if finding.rule == rule]


@pytest.mark.parametrize(
    ("results", "short", "shown"),
    [
        ([], True, "no record"),
        ([(30, (True, True, True))], False, "on 3 of 3, 30 s before"),
        ([(10, (True, False)), (30, (True, True))], False, "on 2 of 2, 30 s before"),
        ([(30, (True, False))], True, "on 1 of 2"),
        ([(10, (True, True)), (30, (True, False))], True, "on 1 of 2"),
    ],
)
def test_a_short_lead_is_no_finding_where_every_replica_was_confirmed(past, log, results, short, shown):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - DAY, lead_s=60, force=True)
    for after_s, replicas in results:
        confirm(log, NOW - DAY + after_s, *replicas)
    text = f"{past.kids['EdDSA']} was published 1 min before it signed"
    assert found(past, "pending-window") == ([text] if short else [])
    assert shown in Outline(report.render_html(report.build_report(past.state()))).words()


def test_a_confirmation_after_the_switch_proves_nothing(past, log):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - DAY, lead_s=60, force=True)
    confirm(log, NOW - DAY + 60, True)
    assert found(past, "pending-window") != []


def late(past: Any, tmp_path: Path, change: Any, *, deployed: bool = False) -> list[str]:
    """The findings after a change of keys beside what was deployed before it, or after it."""
    if not deployed:
        shutil.copytree(tmp_path / "keys", tmp_path / "deployed")
    change()
    if deployed:
        shutil.copytree(tmp_path / "keys", tmp_path / "deployed")
    return found(past, "late-change", deployed=tmp_path / "deployed")


@pytest.mark.parametrize(
    ("ago_s", "verb"), [(3000, ""), (3001, "from"), (3599, "from"), (3600, "since"), (DAY, "since")]
)
@pytest.mark.parametrize("deployed", [False, True])
def test_a_rotation_must_be_deployed_ten_minutes_before_the_switch(past, tmp_path, ago_s, verb, deployed):
    past.generate("ES256", NOW - 9 * DAY)
    expected = f"{past.kids['EdDSA']} signs {verb} {utc(NOW - ago_s + 3600)} and is not deployed"
    found = late(past, tmp_path, lambda: past.rotate("EdDSA", NOW - ago_s), deployed=deployed)
    assert found == ([expected] if verb and not deployed else [])


@pytest.mark.parametrize(("ahead_s", "verb"), [(600, ""), (599, "from"), (1, "from"), (0, "since")])
def test_a_cancellation_must_be_deployed_ten_minutes_before_the_switch(past, tmp_path, ahead_s, verb):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - 3600 + ahead_s)
    expected = (
        f"{past.kids['EdDSA']} signs {verb} {utc(NOW + ahead_s)} where the keys are deployed, and is removed here"
    )
    found = late(past, tmp_path, lambda: past.cancel(NOW - 3000 + ahead_s))
    assert found == ([expected] if verb else [])


def test_a_revocation_never_comes_too_late(past, tmp_path, pairs):
    past.generate("ES256", NOW - 9 * DAY)
    replacement = pairs["EdDSA"].public
    assert late(past, tmp_path, lambda: past.revoke("ES256", "leaked", NOW - DAY, replacement=replacement)) == []


def test_a_revocation_that_makes_the_pending_key_current_never_comes_too_late(past, tmp_path, pairs):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - 60)
    revoke = lambda: past.revoke("ES256", "leaked", NOW - 30, replacement=pairs["RS256"].public)  # noqa: E731
    assert late(past, tmp_path, revoke) == []
    assert past.state().keyring.current(NOW).kid == past.kids["EdDSA"]


def test_what_is_deployed_must_be_readable(past, tmp_path):
    past.generate("ES256", NOW)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/other/public: cannot be read"):
        past.state(deployed=tmp_path / "other")


def test_the_first_key_and_a_replacement_are_active_at_once(past):
    past.generate("ES256", NOW - 9 * DAY)
    past.revoke("ES256", "leaked", NOW - 60, force=True)
    past.generate("RS256", NOW - 60)
    assert found(past, "pending-window") == []


def test_the_overlap_is_checked_against_the_recorded_settings(past, log):
    past.generate("ES256", NOW - 9 * DAY)
    short = OverlapPolicy(60, 10)
    past.rotate("EdDSA", NOW - 3600, lead_s=3540, window=short)
    assert found(past, "overlap") != []
    lines = list(history.load(log.read_bytes()).events)
    recorded = [Event(**{**_members(line), "max_lifetime_s": 60, "leeway_s": 10}) for line in lines]
    log.write_bytes(history.append(b"", recorded))
    assert found(past, "overlap") == []
    assert report.build_report(past.state())["switches"][0]["needed_s"] == 80


def _members(line: Event) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(line)


def record_settings(log: Path, policy: OverlapPolicy) -> None:
    """Write the settings that the commands of the fixture leave out into the lines of rotations."""
    lines = [
        replace(line, max_lifetime_s=policy.max_lifetime_s, leeway_s=policy.leeway_s)
        if line.command == "rotate"
        else line
        for line in history.load(log.read_bytes()).events
    ]
    log.write_bytes(history.append(b"", lines))


SHORT, USUAL = OverlapPolicy(60, 0), {"max_lifetime_s": 300, "leeway_s": 30}


@pytest.mark.parametrize(
    ("recorded_at", "settings", "needed_s"),
    [
        (None, {}, 60),
        (NOW - 1800, {"max_lifetime_s": 60, "leeway_s": 0}, 60),
        (NOW - 1800, {"max_lifetime_s": 60}, 60),
        (NOW - 1800, USUAL, 360),  # while the key is pending
        (NOW - 2 * DAY, USUAL, 360),  # before the rotation
        (NOW + 30, USUAL, 360),  # after the switch
    ],
)
def test_the_overlap_is_what_the_replicas_need_if_that_is_longer(past, log, recorded_at, settings, needed_s):
    past.generate("ES256", NOW - 9 * DAY)
    if recorded_at == NOW - 2 * DAY:
        confirm(log, recorded_at, True, **settings)
    past.rotate("EdDSA", NOW - 3600, lead_s=3600, window=SHORT)
    before = list(history.load(log.read_bytes()).confirmations)
    record_settings(log, SHORT)
    log.write_bytes(history.append(b"", [*before, *history.load(log.read_bytes()).events]))
    if recorded_at not in (None, NOW - 2 * DAY):
        confirm(log, recorded_at, True, **settings)
    [switch] = report.build_report(past.state())["switches"]
    longer = needed_s > 60
    verdict = "too short" if longer else "enough"
    assert (switch["needed_s"], switch["needed_by_replicas"], switch["verdict"]) == (needed_s, longer, verdict)
    text = f"{past.kids['ES256']} expires 2027-01-15 08:01:00 UTC, its last tokens 2027-01-15 08:06:00 UTC"
    assert found(past, "overlap") == ([f"{text}, by the settings of the replicas"] if longer else [])
    over = ["switch 1, 2027-01-15 08:00:00 UTC: the old key ended 5 min too early"] if longer else []
    over = [f"{text}; confirmed on 0 of 1 replicas" if recorded_at == NOW - 1800 else text for text in over]
    assert found(past, "past-switch", now=NOW + 400) == over


def test_the_settings_of_replicas_that_run_now_count_until_the_switch_is_over(past, log):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - 3600, lead_s=3600, window=SHORT)
    record_settings(log, SHORT)
    running = (Replica("http://a", **USUAL), Replica("http://b"))
    for after_s, verdict in ((-1, "too short"), (359, "too short"), (360, "enough")):
        state = replace(past.state(now=NOW + after_s), replicas=running)
        assert [switch["verdict"] for switch in switch_checks.switches(state)] == [verdict]


def test_a_record_of_the_next_rotation_says_nothing_about_the_one_before(past, log):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - 8 * DAY)
    past.rotate("RS256", NOW - 7200)
    confirm(log, NOW - 7000, True, max_lifetime_s=600, leeway_s=30)
    needed = [switch["needed_s"] for switch in report.build_report(past.state())["switches"]]
    assert needed == [360, 660]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"clock_offset_s": -15}, "on 1 of 1"),
        ({"clock_offset_s": -16}, "on 0 of 1"),
        ({"clock_offset_s": 3, "leeway_s": 4}, "on 1 of 1"),  # without both settings, the usual leeway
        ({"clock_offset_s": 3, "leeway_s": 4, "max_lifetime_s": 60}, "on 0 of 1"),
        ({"leeway_s": 30, "max_lifetime_s": 300}, "on 1 of 1"),
        ({"leeway_s": 30, "max_lifetime_s": 301}, "on 0 of 1"),
    ],
)
def test_a_record_counts_only_with_a_right_clock_and_settings_that_the_switch_was_made_for(past, log, values, shown):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - DAY)
    confirm(log, NOW - DAY + 60, True, **values)
    words = Outline(report.render_html(report.build_report(past.state()))).words()
    assert f"{shown}, 59 min before" in words if shown == "on 1 of 1" else shown in words


def test_what_went_wrong_stays_visible_after_the_next_rotation(past, log):
    past.generate("ES256", NOW - 300 * DAY)
    past.rotate("EdDSA", NOW - 100 * DAY, lead_s=0, force=True)
    confirm(log, NOW - 50 * DAY, True, False, False)
    past.rotate("RS256", NOW - 50 * DAY)
    confirm(log, NOW - 50 * DAY + 60, True, False, False)
    kids = past.kids
    assert found(past, "pending-window") == []
    at = ["switch 1, 2026-10-07 08:00:00 UTC: the new key was published 0 s before it signed"]
    at += ["switch 2, 2026-11-26 09:00:00 UTC: confirmed on 1 of 3 replicas"]
    assert found(past, "past-switch") == at
    assert found(past, "past-cryptoperiod") == [f"{kids['ES256']} signed for 200 days, at most 90d"]
    anchor = history.Anchor(2, "0" * 64)
    period = [f.found for f in audit.findings(replace(past.state(), since=anchor)) if f.severity == "low"]
    assert period == at[1:]
    assert [s["number"] for s in report.build_report(replace(past.state(), since=anchor))["switches"]] == [2]


def test_a_revocation_with_replacement_is_no_short_overlap(past, pairs):
    past.generate("ES256", NOW - 9 * DAY)
    past.rotate("EdDSA", NOW - 7260)
    past.revoke("EdDSA", "leaked", NOW - 3590, replacement=pairs["RS256"].public)
    for now in (NOW - 3590, NOW - 3500, NOW - 3000):
        assert found(past, "overlap", now=now) == []


def test_words_that_are_no_unicode_do_not_break_the_page(past, log):
    past.generate("ES256", NOW, by="ann")
    log.write_bytes(log.read_bytes().replace(b'"ann"', b'"\\udcff\\u001b[31m"'))
    html = report.render_html(report.build_report(past.state()))
    assert "\\udcff\\x1b[31m" in html
    assert "\x1b" not in html
    assert html.encode()
    log.write_bytes(log.read_bytes().decode().encode("utf-16"))
    assert report.render_html(report.build_report(past.state())).encode()


def test_a_period_shows_only_what_was_added_since_the_anchor(past, log):
    past.generate("ES256", NOW - 9 * DAY)
    anchor = history.Anchor.of(log.read_bytes())
    past.rotate("EdDSA", NOW - 8 * DAY, by="bob")
    document = report.build_report(replace(past.state(), since=anchor))
    assert [line["line"] for line in document["history"]] == [2, 3]
    words = Outline(report.render_html(document)).words()
    assert f"Since {anchor}: the history continues from there with 2 lines." in words
    document = report.build_report(replace(past.state(), since=anchor, since_problem="rewritten"))
    assert "the history does not continue from there." in Outline(report.render_html(document)).words()
