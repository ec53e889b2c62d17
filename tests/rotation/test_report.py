"""The reviewer's page: what it says about a known past, and that it is a page anyone can read."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import NOW
from tests.rotation.test_tampering import committed_keys as committed_keys  # a fixture
from tests.rotation.test_tampering import private_key_committed
from tests.rotation.test_tampering import repository as repository  # a fixture
from verifier import __version__
from verifier.core import rules
from verifier.core.applications import Applications, Secret
from verifier.core.keyring import Keyring, parse_public_key
from verifier.core.times import LEAD_S, utc
from verifier.rotation import audit, plan, report, timeline
from verifier.rotation.chart import chart_layout
from verifier.rotation.history import Anchor, Confirmation, Event, SecretEvent, append
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import Planner
from verifier.rotation.replicas import Replica
from verifier.rotation.secret_changes import add_secret, dump
from verifier.rotation.witness import Commit
from verifier.signing.keystore import Keystore

DAY = 86_400
WINDOW = plan.OverlapPolicy()
HOSTILE = "<script>alert(1)</script>\" onload='x' http://evil.example"


@pytest.fixture
def past(tmp_path: Path, pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A key directory to which things happen at any time; keys are named by their algorithm."""
    store = Keystore(tmp_path / "keys")
    kids = {alg: pair.kid for alg, pair in pairs.items()}

    def happen(command: str, make: Callable[[Keyring], plan.Plan], now: int, by: str) -> None:
        monkeypatch.setenv("LOGNAME", by)
        with store.transaction() as keyring:
            store.apply(make(keyring), command, now=now)

    def generate(alg: str, now: int, by: str = "ann") -> None:
        happen("generate", lambda _: [plan.activate_first_key(pairs[alg].public, now=now)], now, by)

    def rotate(alg: str, now: int, by: str = "ann", lead_s: int = LEAD_S, **options: Any) -> None:
        happen("rotate", lambda keyring: Planner(keyring, now, **options).rotate(pairs[alg].public, lead_s), now, by)

    def revoke(
        alg: str, reason: str, now: int, by: str = "ann", replacement: dict[str, Any] | None = None, **options: Any
    ) -> None:
        def make(keyring: Keyring) -> plan.Plan:
            return Planner(keyring, now, **options).revoke(keyring.keys[kids[alg]], reason, replacement)

        happen("revoke", make, now, by)

    def cancel(now: int, by: str = "ann") -> None:
        happen("cancel", lambda keyring: Planner(keyring, now).cancel(), now, by)

    def prune(now: int, by: str = "ann") -> None:
        happen("prune", lambda keyring: Planner(keyring, now).prune(), now, by)

    def state(now: int = NOW, window: plan.OverlapPolicy = WINDOW, **options: Any) -> Inventory:
        return Inventory.read(tmp_path / "keys", now=now, window=window, **options)

    return SimpleNamespace(
        generate=generate, rotate=rotate, revoke=revoke, cancel=cancel, prune=prune, state=state, kids=kids
    )


def test_the_report_of_a_rotation_contains_all_of_it(past, tmp_path):
    made, announced = NOW - 80 * DAY, NOW - 10 * DAY
    switch = announced + 3600
    past.generate("ES256", made)
    past.rotate("EdDSA", announced, by="bob")
    old, new = past.kids["ES256"], past.kids["EdDSA"]
    state = past.state()
    digest = state.keyring.digest
    running: dict[str, Any] = {"clock_offset_s": 0, "max_lifetime_s": 300, "leeway_s": 30, "version": "1"}
    replicas = (
        Replica("http://a", digest, (new,), ready=True, **running),
        Replica("http://b", digest, (new,), ready=False, **running),
        Replica("http://c", "00", (old,), ready=True, **running | {"clock_offset_s": -60}),
        Replica("http://d", problem="connection refused"),
    )
    document = report.build_report(replace(state, replicas=replicas))
    checks, policy = document.pop("rules"), document.pop("policy")
    assert {event.pop("version") for event in document["history"]} <= {"", __version__}
    unused = {"revoked_at": None, "reason": "", "removed_at": None, "last_use": None, "revoked_by": ""}
    unused |= {"revocation": None, "origin": ""}
    recorded = {
        "reason": "", "previous_exp": None, "revoked_at": None, "max_lifetime_s": None, "leeway_s": None,
        "lead_s": None, "force": None, "origin": "", "note": "", "merged": (), "kind": "key", "commit": None,
    }  # fmt: skip
    findings = document.pop("findings")
    assert [(finding["severity"], finding["rule"], finding["found"]) for finding in findings] == [
        ("high", "replica-response", "http://d: connection refused"),
        ("high", "replica-keys", "http://b is not ready"),
        ("high", "replica-keys", f"http://c lacks current {new}, still has {old}"),
        ("high", "replica-clock", "http://c: its clock is 60 s slow, at most 15 s"),
    ]
    anchor = Anchor.of((tmp_path / "keys" / "history.jsonl").read_bytes())
    assert document == {
        "schema_version": 1,
        "made_at": NOW,
        "version": __version__,
        "anchor": {"lines": 3, "digest": anchor.digest, "text": f"3:{anchor.digest}"},
        "since": None,
        "git": {"present": False, "commit": "", "clean": None, "uncommitted": (), "problems": (), "unsearched": ""},
        "key_set_digest": digest,
        "settings": {"max_lifetime_s": 300, "leeway_s": 30, "overlap_s": 360, "cryptoperiod_s": 90 * DAY},
        "rotate_by": switch + 90 * DAY,
        "failed": True,
        "worst": findings[0],
        "applications": [],
        "keys": [
            {
                "kid": old,
                "alg": "ES256",
                "state": "expired",
                "made_at": made,
                "made_by": "ann",
                "made_with": "generate",
                "nbf": made,
                "exp": switch + 360,
                "verifies_from": made,
                "verifies_until": switch + 360,
                "needed_s": 360,
                "signs": [[made, switch]],
            }
            | unused,
            {
                "kid": new,
                "alg": "EdDSA",
                "state": "current",
                "made_at": announced,
                "made_by": "bob",
                "made_with": "rotate",
                "nbf": switch,
                "exp": None,
                "verifies_from": switch - 30,
                "verifies_until": None,
                "needed_s": 360,
                "signs": [[switch, None]],
            }
            | unused,
        ],
        "switches": [
            {
                "number": 1,
                "at": switch,
                "from": old,
                "to": new,
                "published_ahead_s": 3600,
                "gap_s": 0,
                "old_ends": switch + 360,
                "overlap_s": 360,
                "needed_s": 360,
                "needed_by_replicas": False,
                "confirmation": None,
                "verdict": "enough",
            }
        ],
        "history": [
            {"at": at, "by": by, "command": command, "kid": kid, "old": before, "new": after, "nbf": nbf, "exp": exp}
            | recorded
            | {"iat": made if kid == old else announced, "alg": "ES256" if kid == old else "EdDSA", "line": line}
            for line, (at, by, command, kid, before, after, nbf, exp) in enumerate(
                [
                    (made, "ann", "generate", old, "none", "current", made, None),
                    (announced, "bob", "rotate", new, "none", "pending", switch, None),
                    (announced, "bob", "rotate", old, "current", "current", made, switch + 360),
                ],
                start=1,
            )
        ],
        "replicas": [
            asdict(replica) | {"same": same, "lacks": lacks, "trusts": trusts, "violations": violations, "found": found}
            for replica, same, lacks, trusts, violations, found in zip(
                replicas,
                (True, False, False, False),
                ([], [], [new], []),
                ([], [], [old], []),
                ([], ["replica-keys"], ["replica-keys", "replica-clock"], ["replica-response"]),
                (
                    [],
                    ["is not ready"],
                    [f"lacks current {new}, still has {old}", "its clock is 60 s slow, at most 15 s"],
                    ["connection refused"],
                ),
                strict=True,
            )
        ],
        "not_covered": list(report.NOT_COVERED),
    }
    assert [rule["id"] for rule in checks] == [rule.id for rule in audit.RULES]
    assert {rule["id"]: rule["violations"] for rule in checks if rule["violations"]} == {
        "replica-response": 1,
        "replica-keys": 2,
        "replica-clock": 1,
    }
    assert [rule["name"] for rule in policy] == [rule.name for rule in rules.RULES]
    assert policy[2] == {
        "name": "kid",
        "clause": "RFC 7515 §4.1.4",
        "expects": "the key ID of a key that verifies now",
    }
    assert {rule["expects"] for rule in policy if rule["name"] == "lifetime"} == {"exp - iat above 0 s, at most 300 s"}


def test_every_rule_of_the_policy_has_a_test():
    folder = Path(__file__).parents[1] / "core"
    there = set(re.findall(r"(?m)^def (test_\w+)", (folder / "test_tokens.py").read_text()))
    named = json.loads((folder / "rule_tests.json").read_text())
    assert named.keys() == {rule.name for rule in rules.RULES}
    assert set(named.values()) <= there


@pytest.fixture
def key(pairs):
    """A key with these dates, named by its algorithm."""

    def key(alg: str, nbf: int, exp: int | None = None, revoked_at: int | None = None, iat: int | None = None) -> Any:
        members = pairs[alg].public | {"iat": nbf if iat is None else iat, "nbf": nbf}
        members |= {} if exp is None else {"exp": exp}
        members |= {} if revoked_at is None else {"revoked": {"revoked_at": revoked_at, "reason": "leaked"}}
        return parse_public_key(f"{pairs[alg].kid}.json", json.dumps(members).encode())

    return key


@pytest.mark.parametrize(
    ("dates", "signs", "switches"),
    [
        pytest.param(
            {"ES256": (0, 1359), "EdDSA": (1000,)},
            {"ES256": [[0, 1000]], "EdDSA": [[1000, None]]},
            [(1000, 359, 0, "too short")],
            id="overlap-1s-short",
        ),
        pytest.param(
            {"ES256": (0, 1360), "EdDSA": (1000,)},
            {"ES256": [[0, 1000]], "EdDSA": [[1000, None]]},
            [(1000, 360, 0, "enough")],
            id="overlap-exact",
        ),
        pytest.param(
            {"ES256": (0,), "EdDSA": (1000,)},
            {"ES256": [[0, 1000]], "EdDSA": [[1000, None]]},
            [(1000, None, 0, "enough")],
            id="old-key-without-end",
        ),
        pytest.param(
            {"ES256": (0, 1360, 1100), "EdDSA": (1000,)},
            {"ES256": [[0, 1000]], "EdDSA": [[1000, None]]},
            [(1000, 100, 0, "revoked")],
            id="revoked-within-the-overlap",
        ),
        pytest.param(
            {"ES256": (0, 900), "EdDSA": (1000,)},
            {"ES256": [[0, 900]], "EdDSA": [[1000, None]]},
            [(1000, -100, 100, "too short")],
            id="nobody-signs-for-100s",
        ),
        pytest.param(
            {"ES256": (0, 1360), "EdDSA": (1000, None, 1100)},
            {"ES256": [[0, 1000], [1100, 1360]], "EdDSA": [[1000, 1100]]},
            [(1000, 360, 0, "enough"), (1100, 0, 0, "revoked")],
            id="the-old-key-takes-over-again",
        ),
        pytest.param(
            {"ES256": (0, 1360), "EdDSA": (1000, None, 500, 400), "RS256": (1000, None, None, 600)},
            {"ES256": [[0, 1000]], "EdDSA": [], "RS256": [[1000, None]]},
            [(1000, 360, 0, "enough")],
            id="revoked-while-pending",
        ),
        pytest.param(
            {"ES256": (0, None, None, 700)}, {"ES256": [[700, None]]}, [], id="nobody-had-it-before-it-was-published"
        ),
    ],
)
def test_one_key_signs_at_a_time(key, pairs, dates, signs, switches):
    rows = timeline.keys(Keyring(key(alg, *args) for alg, args in dates.items()), [], WINDOW, 2000)
    assert {row["kid"]: row["signs"] for row in rows} == {pairs[alg].kid: spans for alg, spans in signs.items()}
    found = timeline.transitions(rows)
    assert [(s["at"], s["overlap_s"], s["gap_s"], s["verdict"]) for s in found] == switches


def test_removed_keys_stay_in_the_report_as_the_history_tells(past):
    past.generate("ES256", NOW - 800 * DAY)
    past.rotate("EdDSA", NOW - 700 * DAY)
    past.revoke("EdDSA", "leaked", NOW - 690 * DAY, force=True)
    past.generate("RS256", NOW - 690 * DAY)
    past.prune(NOW - 100 * DAY)
    rows = timeline.keys(past.state().keyring, past.state().history.events, WINDOW, NOW)
    assert [{name: row[name] for name in ("state", "alg", "reason", "removed_at", "signs")} for row in rows] == [
        {
            "state": "gone",
            "alg": "ES256",
            "reason": "",
            "removed_at": NOW - 100 * DAY,
            "signs": [[NOW - 800 * DAY, NOW - 700 * DAY + 3600]],
        },
        {
            "state": "gone",
            "alg": "EdDSA",
            "reason": "leaked",
            "removed_at": NOW - 100 * DAY,
            "signs": [[NOW - 700 * DAY + 3600, NOW - 690 * DAY]],
        },
        {"state": "current", "alg": "RS256", "reason": "", "removed_at": None, "signs": [[NOW - 690 * DAY, None]]},
    ]
    assert [s["verdict"] for s in timeline.transitions(rows)] == ["enough", "revoked"]


def test_a_cancelled_key_never_signs(past):
    past.generate("ES256", NOW - DAY)
    past.rotate("EdDSA", NOW - 7200, lead_s=5400)
    past.cancel(NOW - 3600)
    rows = {row["kid"]: row for row in report.build_report(past.state())["keys"]}
    assert rows[past.kids["ES256"]]["signs"] == [[NOW - DAY, None]]
    cancelled = rows[past.kids["EdDSA"]]
    assert (cancelled["state"], cancelled["signs"], cancelled["verifies_until"]) == ("gone", [], NOW - 3600)


def test_a_key_that_left_without_a_command_is_not_drawn():
    told = {"by": "ann", "command": "generate", "old": "none", "new": "current"}
    dangling = Event(at=NOW, kid="x", nbf=NOW, **told)
    dateless = Event(at=NOW, kid="y", **told | {"old": "expired", "new": "gone"})
    assert timeline.keys(Keyring(), [dangling, dateless], WINDOW, NOW) == []


class Outline(HTMLParser):
    """The elements of a page, each closed where it must be, and what a reader without eyes is told."""

    VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs))
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]

    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def young(past: SimpleNamespace) -> dict[str, Any]:
    past.generate("ES256", NOW)
    return report.build_report(past.state())


def hostile(past: SimpleNamespace) -> dict[str, Any]:
    """Everything at once: strangers' words, a cut overlap, a gap, a replica that still trusts the revoked key."""
    past.generate("ES256", NOW - 9 * DAY, by="<b>mallory</b>")
    past.rotate("EdDSA", NOW - 5 * DAY, window=plan.OverlapPolicy(60, 0))
    past.revoke("EdDSA", HOSTILE, NOW - 4 * DAY, by="<b>mallory</b>", force=True)
    past.generate("RS256", NOW - 4 * DAY + 7200)
    state = past.state()
    digest, kids = state.keyring.digest, (past.kids["RS256"],)
    replicas = (
        Replica("https://<i>a", digest, kids, ready=True),
        Replica("https://b", "00", (*kids, past.kids["EdDSA"]), ready=True),
        Replica("https://c", "00", (), ready=True),
        Replica("https://d", "00", kids, ready=True),
        Replica("https://e", digest, kids),
        Replica("https://f", problem="connection refused"),
    )
    return report.build_report(replace(state, replicas=replicas))


def broken(past: SimpleNamespace) -> dict[str, Any]:
    """No history, no current key, ten years shown."""
    past.generate("ES256", NOW - 3600 * DAY)
    past.rotate("EdDSA", NOW - 3599 * DAY)
    past.rotate("RS256", NOW - 10 * DAY)
    state = past.state()
    return report.build_report(state) | {"history": []}


def planned(past: SimpleNamespace) -> dict[str, Any]:
    """A key revoked before it signed, a cancelled end, a pending key, two switches near each other."""
    past.generate("ES256", NOW - 30 * DAY)
    past.rotate("EdDSA", NOW - 20 * DAY)
    past.cancel(NOW - 20 * DAY + 60)
    past.rotate("EdDSA", NOW - 7200, lead_s=3600)
    past.rotate("RS256", NOW - 60)
    return report.build_report(past.state())


def locked_out(past: SimpleNamespace) -> dict[str, Any]:
    past.generate("ES256", NOW - DAY)
    past.revoke("ES256", "leaked", NOW - 60, force=True)
    return report.build_report(past.state()) | {"history": []}


SCENES = [young, hostile, broken, planned, locked_out]


@pytest.mark.parametrize("scene", SCENES)
def test_the_page_is_whole_and_readable_without_eyes(past, scene):
    html = report.render_html(scene(past))
    outline = Outline(html)
    tags = [tag for tag, _ in outline.elements]
    assert html.startswith("<!doctype html>\n")
    assert outline.all("lang") == ["en"]
    assert (tags.count("title"), tags.count("h1"), tags.count("main")) == (1, 1, 1)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = outline.all("id")
    assert len(ids) == len(set(ids))
    for tag, attributes in outline.elements:
        if tag in ("section", "figure"):
            assert attributes["aria-labelledby"] in ids
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if "tabindex" in attributes:
            assert attributes["role"] == "region"
            assert attributes["aria-label"]
    assert tags.count("table") == outline.all("role").count("region")


@pytest.mark.parametrize("scene", SCENES)
def test_the_page_needs_no_network_and_runs_nothing(past, scene):
    html = report.render_html(scene(past))
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src' in html
    outline = Outline(html)
    tags = {tag for tag, _ in outline.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "svg"}
    assert all(href.startswith("#") and href[1:] in outline.all("id") for href in outline.all("href"))
    assert not any(name.startswith("on") or name == "src" for _, attributes in outline.elements for name in attributes)
    style = re.search(r"(?s)<style>(.*)</style>", html)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.parametrize("scene", [young, planned])
def test_the_page_names_no_address_by_itself(past, scene):
    assert not re.search(r"http[s:]|<script|src=", report.render_html(scene(past)))


def test_the_words_of_others_are_text(past):
    html = report.render_html(hostile(past))
    assert "<script" not in html
    assert "<b>mallory" not in html
    assert "https://<i>a" not in html
    words = Outline(html).words()
    assert words.count(HOSTILE) == 2  # under Revocations and in the History
    assert "<b>mallory</b>" in words


def test_the_page_answers_the_questions_of_a_reviewer(past):
    document = hostile(past)
    html = report.render_html(document)
    words = Outline(html).words()
    for text in (
        f"Current key {past.kids['RS256'][:8]}…, active since 2027-01-11 10:00:00 UTC.",
        "Rotate by 2027-04-11 10:00:00 UTC.",
        f"; the worst is critical: replica-revoked. https://b still trusts {past.kids['EdDSA']}, which is revoked",
        "Replica https://f: connection refused",
        "0 of 6 run with these keys, a right clock and these settings.",
        f"Anchor, to keep elsewhere {document['anchor']['text']} Commit Not a git checkout",
        "Who changed what? 5 lines by accounts <b>mallory</b>, ann: 5 of keys (History). Its chain is unbroken",
        "0 of 2 switches left the old key as long as needed.",
        "Switch 1 is too short. Switch 2 was cut by a revocation, on purpose.",
        "Were replicas confirmed before each switch? 0 of 2. Switch 1: no record. Switch 2: a revocation, "
        "which does not wait.",
        "1 revoked key: 1 of 6 replicas queried have the keys of this page and reject it.",
        f"{past.kids['EdDSA'][:8]}…, revoked 2027-01-11 08:00:00 UTC By account <b>mallory</b>.",
        "Still trusted by https://b when this page was made.",
        "Proven: a replica that reports the key-set digest of this page has loaded the revocation",
        "Not proven: when each of them loaded it, apart from what was recorded.",
        "No replica was recorded after it (verifier keys confirm --record).",
        "no key could sign for 2 h",
    ):
        assert text in words
    for name in [*(rule.id for rule in audit.RULES), *(rule.name for rule in rules.RULES)]:
        assert f'<th scope="row">{name}</th>' in html


def test_the_page_names_what_it_could_not_check(past):
    words = Outline(report.render_html(young(past))).words()
    for text in (
        "There has been no switch.",
        "No key has been revoked.",
        "No replica was queried",
        "Was a private key ever committed? Not known: not a git checkout.",
        "No line records --force.",
        "No findings. 26 of 45 rules of the audit hold; the others were not checked.",
        "19 rules could not be checked without --replica URL, a git checkout, --since N:DIGEST, private keys, "
        "--applications FILE, --require-signed, --deployed FOLDER, --metrics URL.",
        "the history continues from the anchorneeds --since N:DIGEST",
    ):
        assert text in words
    words = Outline(report.render_html(locked_out(past))).words()
    for text in ("None: every sign-in is rejected.", "No command has written a history"):
        assert text in words


def test_the_page_of_a_repository_answers_more(repository, tmp_path):
    path = tmp_path / "applications.json"
    path.write_bytes(dump(add_secret(Applications(), "app", Secret.of("first-secret-of-the-dashboard"))))

    def page(**options: Any) -> str:
        now = NOW - 60 * DAY
        state = Inventory.read(repository.keys, now=now, window=WINDOW, since=repository.anchor, **options)
        return Outline(report.render_html(report.build_report(state))).words()

    words = page()
    assert "Was a private key ever committed? No commit of a branch or tag contains one in the key directory" in words
    needed = "--replica URL, --applications FILE, --require-signed, --deployed FOLDER, --metrics URL"
    assert f"12 rules could not be checked without {needed}." in words
    state = Inventory.read(repository.keys, now=NOW - 60 * DAY, window=WINDOW)
    good = Replica("http://a", state.keyring.digest, ready=True, clock_offset_s=0, max_lifetime_s=300, leeway_s=30)
    words = page(replicas=(good,), applications=path, require_signed=True, deployed=repository.keys, metrics=True)
    assert "could not be checked" not in words
    assert "not checked" not in words
    private_key_committed(repository)
    assert "Was a private key ever committed? Yes: see Audit." in page()
    (repository.top / ".git" / "HEAD").write_text("nonsense")
    assert "Was a private key ever committed? Not known: git could not be queried." in page()


def test_the_page_shows_where_a_command_was_forced(past):
    past.generate("ES256", NOW - DAY)
    state = past.state()
    [line] = state.history.lines
    forced = replace(state, history=replace(state.history, lines=(line, replace(line, force=True))))
    assert "--force was used in line 2." in Outline(report.render_html(report.build_report(forced))).words()


def test_a_broken_history_is_shown_at_the_top(past, tmp_path):
    past.generate("ES256", NOW)
    past.rotate("EdDSA", NOW)
    trail = tmp_path / "keys" / "history.jsonl"
    trail.write_text(trail.read_text().replace('"ann"', '"eve"', 1))
    words = Outline(report.render_html(report.build_report(past.state()))).words()
    assert "It is broken or disagrees with the key files." in words


def test_the_page_says_where_each_line_of_the_history_is_and_what_is_signed(past, tmp_path):
    past.generate("ES256", NOW - DAY)
    past.rotate("EdDSA", NOW - 7200, lead_s=600)
    past.revoke("EdDSA", "leaked", NOW - 6588, force=True)
    path = tmp_path / "keys" / "history.jsonl"
    secret = {"command": "add", "application": "a", "slot": 1, "sha256": "ab", "old": "none", "new": "active"}
    reported = {"command": "confirm", "key_set_digest": "", "confirmed": False, "problem": "its clock is 60 s slow"}
    lines = [
        SecretEvent(at=NOW, by="ann", version="9.8.7", **secret),
        Confirmation(at=NOW, by="ann", replica="http://a", version="9.8.6", clock_offset_s=-60, **reported),
        Confirmation(at=NOW, by="ann", replica=f"http://{'a' * 40}", **reported),
    ]
    path.write_bytes(append(path.read_bytes(), lines))
    document = report.build_report(past.state())
    words = Outline(report.render_html(document)).words()
    for text in (
        "lines by account ann: 4 of keys (History), 1 of secrets (Applications), 2 confirmations (Replicas).",
        "2027-01-15 06:10:00 to 2027-01-15 06:10:12",  # shorter than a minute
        "noneversion 9.8.7",
        "6 its clock is 60 s slow http://a",
        "noneversion 9.8.6",
        "of files without a commit with anchor",
        "for the whole history: ",
        "when the secret in slot 1 is removed, the one in slot 2 moves to slot 1",
    ):
        assert text in words


def test_the_keys_are_in_the_order_in_which_they_began_to_sign(past, pairs):
    past.generate("ES256", NOW - DAY)
    past.rotate("EdDSA", NOW - 7200, lead_s=600)
    past.revoke("EdDSA", "leaked", NOW - 6590, replacement=pairs["RS256"].public)
    document = report.build_report(past.state())
    assert [row["kid"] for row in document["keys"]] == [past.kids[alg] for alg in ("ES256", "EdDSA", "RS256")]
    assert [switch["number"] for switch in document["switches"]] == [1, 2]


def test_switches_too_near_for_two_numbers_share_one(past):
    picture = chart_layout(planned(past))
    assert [(mark["first"], mark["last"], len(mark["lines"])) for mark in picture["marks"]] == [(1, 2, 2)]


def test_the_picture_has_every_state_of_a_key(past):
    picture = chart_layout(hostile(past))
    states = {kid: [bar["state"] for bar in bars] for kid, bars in picture["bars"].items()}
    assert states == {
        past.kids["ES256"]: ["current", "retiring", "expired"],
        past.kids["EdDSA"]: ["pending", "current", "revoked"],
        past.kids["RS256"]: ["current"],
    }
    for bars in picture["bars"].values():
        assert all(0 <= bar["from"] < bar["until"] <= 100 for bar in bars)
        assert all(before["until"] == after["from"] for before, after in itertools.pairwise(bars))


def test_the_page_of_an_audit_period_shows_the_switches_of_this_period(past, tmp_path):
    log = tmp_path / "keys" / "history.jsonl"
    past.generate("ES256", NOW - 80 * DAY)
    start = Anchor.of(b"")
    past.rotate("EdDSA", NOW - 50 * DAY)
    planned = Anchor.of(log.read_bytes())
    past.rotate("RS256", NOW - 10 * DAY)
    first, second = NOW - 50 * DAY + 3600, NOW - 10 * DAY + 3600
    every = [(None, [first, second]), (start, [first, second]), (planned, [first, second])]
    for since, switches in [*every, (Anchor.of(log.read_bytes()), [second])]:
        document = report.build_report(replace(past.state(), since=since))
        assert [switch["at"] for switch in document["switches"]] == switches
        words = Outline(report.render_html(document)).words()
        assert ("Those before the anchor of this period are left out." in words) is (since is not None)
        assert f"{len(switches)} of {len(switches)} switch" in words


@pytest.mark.parametrize(
    ("around_s", "ticks"),
    [
        (3600, [("01-15 08:00", 50.0)]),
        (7 * DAY // 2, [(f"2027-01-{12 + n}", round(100 * (4 * 3600 + n * DAY) / (7 * DAY), 2)) for n in range(7)]),
        (
            18 * DAY,
            [
                ("2026-12-31", 7.41),
                ("2027-01-07", 26.85),
                ("2027-01-14", 46.3),
                ("2027-01-21", 65.74),
                ("2027-01-28", 85.19),
            ],
        ),
    ],
)
def test_the_picture_has_dates_at_round_times(around_s, ticks):
    layout = chart_layout({"made_at": NOW, "keys": [], "switches": [], "settings": {"overlap_s": around_s}})
    assert [(tick["label"], tick["at"]) for tick in layout["ticks"]] == ticks


def luminance(colour: str) -> float:
    """Of `#rgb` or `#rrggbb`, as WCAG 2.2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_enough_contrast(scheme):
    template = (Path(report.__file__).parent / "report.html").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w+)", re.findall(r"(?s):root \{(.*?)\}", template)[scheme]))
    for text in ("text", "soft", "pending", "current", "retiring", "expired", "revoked"):
        for ground in ("page", "card"):
            dark, light = sorted(luminance(colours[name]) for name in (text, ground))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize(
    ("records", "recorded", "summary"),
    [
        ([("http://a", 10, True), ("http://b", 50, True), ("http://b", 90, True)], "2 of 2", (2, 2, 50)),
        ([("http://a", 10, False), ("http://a", 20, True), ("http://b", 30, False)], "1 of 2", (1, 2, 20)),
        ([("http://a", 10, False)], "0 of 1", (0, 1, None)),
        ([("http://a", -10, True)], None, None),
    ],
)
def test_the_page_says_when_replicas_were_recorded_with_a_revocation(past, pairs, records, recorded, summary):
    past.generate("ES256", NOW - 90)
    past.revoke("ES256", "stolen", NOW - 70, replacement=pairs["EdDSA"].public)
    state = past.state()
    lines = [
        Confirmation(
            at=NOW - 70 + after_s, by="ann", command="confirm", replica=url, key_set_digest="", confirmed=confirmed
        )
        for url, after_s, confirmed in records
    ]
    state = replace(state, history=replace(state.history, lines=(*state.history.lines, *lines)))
    (revoked,) = [key for key in report.build_report(state)["keys"] if key["revoked_at"]]
    words = Outline(report.render_html(report.build_report(state))).words()
    if summary is None:
        assert revoked["revocation"] is None
        assert "No replica was recorded after it" in words
        return
    assert revoked["revocation"] == dict(zip(("confirmed", "replicas", "after_s"), summary, strict=True))
    after_s = summary[2]
    late = f", the last one {after_s} s after it: each had loaded it by then." if after_s else "."
    assert f"{recorded} replicas were recorded with the revocation{late}" in words


@pytest.mark.parametrize(("after_s", "text"), [(30, "30 s after the revocation."), (-30, "before the revocation.")])
def test_the_page_says_whether_a_revoked_key_was_used_afterwards(past, pairs, after_s, text):
    past.generate("ES256", NOW - 90)
    past.revoke("ES256", "stolen", NOW - 70, replacement=pairs["EdDSA"].public)
    used = {("key", past.kids["ES256"]): NOW - 70.0 + after_s}
    words = Outline(report.render_html(report.build_report(replace(past.state(), last_use=used)))).words()
    assert f"Last accepted token: {utc(NOW - 70 + after_s)}, {text}" in words


def test_a_letter_that_looks_like_another_is_shown_with_its_escape(past):
    past.generate("ES256", NOW, by="\u0430nn")
    words = Outline(report.render_html(report.build_report(past.state()))).words()
    assert "1 line by account \u0430nn (\\u0430nn)" in words


def test_the_page_says_how_a_key_was_made_and_that_it_was_committed_too_late(past, pairs):
    past.generate("ES256", NOW - DAY)
    past.rotate("EdDSA", NOW - DAY + 10, lead_s=600)
    past.revoke("EdDSA", "stolen", NOW - 90, replacement=pairs["RS256"].public)
    state = past.state()
    lines = [
        replace(line, command="import", origin="ab" * 32, note="KMS", lead_s=600)
        if line.kid == past.kids["EdDSA"]
        else line
        for line in state.history.lines
    ]
    state = replace(state, history=replace(state.history, lines=tuple(lines)))

    def page(committed_at: str) -> str:
        commits = (Commit("a" * 40, "N", committed_at, "Ann", ""),) * len(lines)
        seen = replace(state, witness=replace(state.witness, lines=commits))
        return Outline(report.render_html(report.build_report(seen))).words()

    in_time, late = "2027-01-14T08:10:00+00:00", "2027-01-14T09:10:11+01:00"
    for text in ("ann, generate", "ann, import: KMS (file abababababababab...)", "ann, revoke --replace"):
        assert text in page(in_time)
    assert "committed after it began to sign" not in page(in_time)
    assert page(late).count("2027-01-14 08:10:11") == len(lines)
    assert page(late).count("committed after it began to sign") == 1
