"""The commands about keys: what each does, says and refuses, at a frozen clock."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import APPLICATION_ID, ISSUER, NOW, SECRET, Done, start
from verifier._version import __version__
from verifier.core.keyring import KeyState
from verifier.rotation import history
from verifier.rotation.history import Anchor
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory

PUBLIC, PRIVATE, HISTORY = Path("keys/public"), Path("keys/private"), Path("keys/history.jsonl")
SWITCH = NOW + 3600
DAY = 86_400
WRITTEN = "Commit keys/public and keys/history.jsonl, never keys/private; have the diff reviewed.\n"


def states(now: int) -> dict[str, str]:
    keyring = KeyDirectory(PUBLIC).load()
    return {kid: keyring.state(key, now).value for kid, key in keyring.keys.items()}


def current(now: int = NOW) -> str:
    return KeyDirectory(PUBLIC).load().current(now).kid


def events() -> list[tuple[str, str, str, str]]:
    found = history.load(HISTORY.read_bytes())
    assert found.problems == ()
    return [(event.command, event.kid, event.old, event.new) for event in found.events]


@pytest.fixture
def first(run) -> str:
    """The kid of the first key, made a day ago."""
    assert run("keys", "generate", now=NOW - DAY).status == 0
    return current()


def test_generate_makes_a_key_that_signs(run):
    done = run("keys", "generate")
    kid = current()
    assert done == Done(
        0,
        f"{kid}  created, active since 2027-01-15 08:00:00 UTC\n  private key in keys/private/{kid}.pem\n" + WRITTEN,
    )
    assert json.loads((PUBLIC / f"{kid}.json").read_text())["alg"] == "ES256"
    assert (PRIVATE.stat().st_mode & 0o777, (PRIVATE / f"{kid}.pem").stat().st_mode & 0o777) == (0o700, 0o600)
    assert events() == [("generate", kid, "none", "current")]


def test_generate_does_not_replace_a_current_key(run, first):
    assert run("keys", "generate") == Done(
        1,
        "",
        f"verifier: error: a key is current already (found {first})\n"
        "verifier: hint: schedule the next one: verifier keys rotate\n",
    )


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_every_kind_of_key_signs_what_verifies(run, alg):
    assert run("keys", "generate", "--alg", alg).status == 0
    options = ("--issuer", ISSUER, "--application-id", APPLICATION_ID)
    token = run("token", "42", *options).out
    assert run("explain", *options, stdin=token).out.endswith("\naccepted\n")


def test_list_shows_stages_and_problems(run, keys, pairs):
    kid = pairs["ES256"].kid
    path = keys / "public" / f"{kid}.json"
    members = json.loads(path.read_text()) | {"exp": NOW + 9, "revoked": {"revoked_at": NOW, "reason": "lost"}}
    path.write_text(json.dumps(members))
    (keys / "public" / "bad.json").write_text("{")
    done = run("keys", "list", "--keys", keys)
    assert done.status == 1
    assert f"{kid}  ES256  revoked   2027-01-15 07:58:20 UTC to 2027-01-15 08:00:09 UTC\n" in done.out
    assert f"{pairs['EdDSA'].kid}  EdDSA  current   2027-01-15 07:56:40 UTC to no expiry, " in done.out
    assert done.out.count(", rotate by 2027-04-15 07:56:40 UTC\n") == 1
    listed = run("keys", "list", "--cryptoperiod", "1d", "--keys", keys)
    assert listed.out.count(", rotate by 2027-01-16 07:56:40 UTC\n") == 1
    assert done.err == f"verifier: error: {keys}/public/bad.json: is not valid JSON\n"
    document = json.loads(run("keys", "list", "--json", "--keys", keys).out)
    assert document["problems"] == [f"{keys}/public/bad.json: is not valid JSON"]
    assert document["rotate_by"] == NOW - 200 + 90 * 86_400
    assert document["keys"][-1] == {
        "kid": kid,
        "alg": "ES256",
        "state": "revoked",
        "iat": NOW - 100,
        "nbf": NOW - 100,
        "exp": NOW + 9,
        "revoked_at": NOW,
        "reason": "lost",
    }


def test_rotate_schedules_the_switch(run, first):
    done = run("keys", "rotate")
    (kid,) = set(states(NOW)) - {first}
    assert done == Done(
        0,
        f"{kid}  created, active from 2027-01-15 09:00:00 UTC\n"
        f"  private key in keys/private/{kid}.pem\n"
        f"{first}  current, expires 2027-01-15 09:06:00 UTC\n" + WRITTEN,
    )
    assert states(SWITCH - 1) == {first: "current", kid: "pending"}
    assert states(SWITCH) == {first: "retiring", kid: "current"}
    assert states(SWITCH + 360) == {first: "expired", kid: "current"}
    assert events()[1:] == [("rotate", kid, "none", "pending"), ("rotate", first, "current", "current")]


def test_rotate_takes_lead_algorithm_and_window(run, first):
    document = json.loads(
        run("keys", "rotate", "--lead", "30m", "--alg", "EdDSA", "--max-lifetime", 60, "--leeway", 5, "--json").out
    )
    new, old = document["events"]
    assert (new["nbf"], old["exp"]) == (NOW + 1800, NOW + 1800 + 70)
    assert (new["by"] != "", new["at"]) == (True, NOW)
    keyring = KeyDirectory(PUBLIC).load()
    assert keyring.find(new["kid"]).algorithm.name == "EdDSA"
    assert document["key_set_digest"] == keyring.digest


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("rotate", "--lead", "599s"), 1, "the lead is too short for every replica to have the key"),
        (("rotate", "--lead", "1w"), 2, "invalid value for '--lead': expected a whole number and a unit"),
        (("revoke", "--kid", "{first}", "--reason", "x"), 1, "no other key can sign: every sign-in would be rejected"),
        (("revoke", "--kid", "nonsense", "--reason", "x"), 1, "no key matches 'nonsense'"),
        (("cancel",), 1, "no key is pending"),
    ],
)
def test_what_would_lock_players_out_is_refused_and_changes_nothing(run, first, arguments, status, says):
    before = {path: path.read_bytes() for path in Path("keys").rglob("*") if path.is_file()}
    done = run("keys", *(argument.format(first=first) for argument in arguments))
    assert done.status == status
    assert f"verifier: error: {says}" in done.err
    assert {path: path.read_bytes() for path in Path("keys").rglob("*") if path.is_file()} == before


def test_rotate_needs_good_files(run, first):
    (PUBLIC / "bad.json").write_text("{")
    assert run("keys", "rotate") == Done(
        3,
        "",
        "verifier: error: keys/public/bad.json: is not valid JSON; nothing was changed\n"
        "verifier: hint: repair keys/public/bad.json or restore it (git checkout -- keys/public/bad.json)\n",
    )


def test_cancel_leaves_the_files_as_they_were(run, first):
    before = (PUBLIC / f"{first}.json").read_bytes()
    assert run("keys", "rotate").status == 0
    (kid,) = set(states(NOW)) - {first}
    done = run("keys", "cancel", now=NOW + 60)
    assert done == Done(0, f"{first}  current, no expiry\n{kid}  deleted (private key deleted)\n" + WRITTEN)
    assert (PUBLIC / f"{first}.json").read_bytes() == before
    assert [path.name for path in PRIVATE.glob("*.pem")] == [f"{first}.pem"]
    assert states(NOW + 60) == {first: "current"}


def test_cancel_gives_an_end_back_that_a_forced_rotation_moved(run, first):
    path = PUBLIC / f"{first}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"exp": NOW + 1000}, indent=2) + "\n")
    before = path.read_bytes()
    assert run("keys", "rotate").status == 1
    assert run("keys", "rotate", "--force").status == 0
    assert run("keys", "cancel").status == 0
    assert path.read_bytes() == before


def test_revoke_with_replace_makes_a_new_key_current_at_once(run, first):
    done = run("keys", "revoke", "--kid", first[:6], "--reason", "laptop stolen", "--replace")
    (kid,) = set(states(NOW)) - {first}
    assert done == Done(
        0,
        f"{kid}  created, active since 2027-01-15 07:59:30 UTC\n"
        f"  private key in keys/private/{kid}.pem\n"
        f"{first}  revoked (laptop stolen)\n" + WRITTEN,
    )
    assert states(NOW) == {first: "revoked", kid: "current"}
    assert json.loads((PUBLIC / f"{first}.json").read_text())["revoked"] == {
        "revoked_at": NOW,
        "reason": "laptop stolen",
    }


def test_revoke_with_replace_takes_the_pending_key(run, first):
    assert run("keys", "rotate").status == 0
    (pending,) = set(states(NOW)) - {first}
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--replace").status == 0
    assert states(NOW) == {first: "revoked", pending: "current"}
    assert len(list(PRIVATE.glob("*.pem"))) == 2


def test_revoke_works_while_another_file_is_broken(run, first):
    (PUBLIC / "bad.json").write_text("{")
    assert run("keys", "revoke", "--kid", first, "--reason", "x", "--force").status == 0


def test_prune_removes_what_no_longer_signs(run, first):
    assert run("keys", "rotate").status == 0
    assert run("keys", "prune") == Done(0, "Nothing to do.\n")
    assert run("keys", "prune", now=SWITCH + 29) == Done(0, "Nothing to do.\n")
    pruned = run("keys", "prune", now=SWITCH + 30)
    assert pruned.out.startswith(f"{first}  retiring, private key deleted\n")
    assert [path.stem for path in PRIVATE.glob("*.pem")] == [current(SWITCH)]
    assert run("keys", "prune", now=SWITCH + 360 + 400 * DAY - 1) == Done(0, "Nothing to do.\n")
    gone = run("keys", "prune", now=SWITCH + 360 + 400 * DAY)
    assert gone.out.startswith(f"{first}  deleted\n")
    assert set(states(SWITCH)) == {current(SWITCH)}


def public(pair: Any, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in pair.public.items() if name != "kid"} | more


def test_import_takes_a_jwks_into_an_empty_folder(run, pairs):
    keys = [public(pairs["ES256"], kid="their name", nbf=NOW - 50, exp=NOW + 9999), public(pairs["RS256"])]
    done = run("keys", "import", "-", stdin=json.dumps({"keys": keys}))
    assert done.status == 0
    assert states(NOW) == {pairs["ES256"].kid: "retiring", pairs["RS256"].kid: "current"}
    assert KeyDirectory(PUBLIC).load().find(pairs["ES256"].kid).exp == NOW + 9999
    assert list(PRIVATE.glob("*.pem")) == []


def test_import_of_several_keys_into_an_empty_folder_leaves_no_finding_about_their_lead(run, pairs):
    keys = [public(pairs[alg], nbf=NOW - age, exp=NOW + 9999) for alg, age in (("ES256", 50), ("EdDSA", 40))]
    keys.append(public(pairs["RS256"]))
    assert run("keys", "import", "-", stdin=json.dumps({"keys": keys})).status == 0
    assert run("keys", "audit").status == 0


def test_import_of_a_pending_key_alone_says_that_none_is_current(run, pairs):
    done = run("keys", "import", "-", stdin=json.dumps(public(pairs["ES256"], nbf=NOW + 9)))
    assert (done.status, done.err) == (
        0,
        "verifier: warning: no key is current: every sign-in is rejected; verifier keys audit names the remedy\n",
    )


def test_the_list_says_that_no_private_key_is_here(run, first):
    (PRIVATE / f"{first}.pem").unlink()
    done = run("keys", "list")
    assert (done.status, done.err) == (
        0,
        "verifier: warning: keys/private holds no private key: no token can be issued here "
        "(restore them, or sign elsewhere)\n",
    )
    shutil.rmtree(PRIVATE)  # as on a machine that only verifies
    assert run("keys", "list").err == ""


def test_import_schedules_a_pem_key_beside_a_current_one(run, first, pairs, tmp_path):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = pairs["ES256"].key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    assert run("keys", "import", "key.pem", "--lead", "20m").status == 0
    assert states(NOW) == {first: "current", pairs["ES256"].kid: "pending"}
    again = run("keys", "import", "key.pem")
    assert again == Done(
        1,
        "",
        "verifier: error: key.pem: nothing was imported (all keys or none): "
        f"key 1 ({pairs['ES256'].kid}): exists already\n"
        "verifier: hint: remove the keys that cannot be used from the file, or correct them\n",
    )


def test_an_imported_key_signs_elsewhere(run, first, pairs):
    Path("key.json").write_text(json.dumps(public(pairs["EdDSA"])))
    assert run("keys", "import", "key.json", "--note", "of the KMS").status == 0
    recorded = {e.kid: (e.note, bool(e.origin)) for e in history.load(HISTORY.read_bytes()).events}
    assert recorded == {first: ("", False), pairs["EdDSA"].kid: ("of the KMS", True)}
    for now in (NOW, NOW + 7200):
        listed = run("keys", "list", now=now)
        assert listed.status == 0
        assert listed.err.startswith(f"verifier: warning: keys/private/{pairs['EdDSA'].kid}.pem is missing, and ")
        found = {f["rule"]: f["severity"] for f in json.loads(run("keys", "audit", "--json", now=now).out)["findings"]}
        assert "private-missing" not in found
        assert found["private-imported"] == "low"


def test_import_of_several_keys_beside_a_current_one_is_refused(run, first, pairs):
    done = run("keys", "import", "-", stdin=json.dumps({"keys": [public(pair) for pair in pairs.values()]}))
    assert done.err.startswith("verifier: error: -: only one key can be the next (found 3); nothing was imported\n")


def test_a_private_file_is_never_written_over(run, monkeypatch):
    from verifier.errors import KeyFileError
    from verifier.rotation.plan import activate_first_key
    from verifier.signing.keystore import Keystore

    store = Keystore(Path("keys"))
    members, pem = store.generate_pair("ES256")
    with store.transaction():
        (PRIVATE / f"{members['kid']}.pem").write_text("precious")
        with pytest.raises(KeyFileError, match=r"(?m)\.pem: exists already; it is never overwritten$"):
            store.apply([activate_first_key(members, now=NOW)], "generate", now=NOW, pem=pem)
    assert (PRIVATE / f"{members['kid']}.pem").read_text() == "precious"
    assert not HISTORY.exists()


def test_a_folder_that_cannot_be_made_is_said_plainly(run, tmp_path):
    (tmp_path / "file").touch()
    assert run("keys", "generate", "--keys", "file") == Done(
        3,
        "",
        "verifier: error: file/public: Not a directory; nothing was changed\n"
        "verifier: hint: file/public and file/private must be folders, or links to folders\n",
    )
    (tmp_path / "latin").write_bytes(b"\xff")
    assert run("keys", "import", "latin") == Done(
        3,
        "",
        "verifier: error: latin: neither PEM nor JWK nor JWKS (is not UTF-8)\n"
        "verifier: hint: expected -----BEGIN PUBLIC KEY-----, or JSON\n",
    )


def test_a_user_without_a_name_is_a_number(run, monkeypatch):
    import getpass

    def nameless() -> str:
        raise OSError

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert run("keys", "generate").status == 0
    assert history.load(HISTORY.read_bytes()).events[0].by == str(os.getuid())


def test_a_second_command_waits_and_then_says_why(run, first, monkeypatch):

    monkeypatch.setattr(atomic, "LOCK_ATTEMPTS", 3)
    with atomic.locked(PRIVATE / ".lock"):
        assert run("keys", "rotate") == Done(
            1,
            "",
            "verifier: error: keys/private/.lock: another verifier process "
            f"{os.getpid()} holds the lock; nothing was changed\n"
            "verifier: hint: try again when it has ended; a suspended process keeps the lock until it continues "
            f"or is ended (kill {os.getpid()})\n",
        )


@pytest.fixture
def replica(run, first, tmp_path):
    """A real server on the keys of this folder, by the real clock."""
    environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": "keys",
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }
    import time

    path = PUBLIC / f"{first}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"nbf": int(time.time()) - 9}))
    server = start(environment, tmp_path / "log")
    yield f"http://127.0.0.1:{server.port}/"
    server.stop()


def test_confirm_tells_whether_every_replica_has_the_keys(run, first, replica):
    absent, now = "http://127.0.0.1:9", int(time.time())
    assert run("keys", "confirm", replica, now=now) == Done(0, f"pass  {replica}  the same keys\n")
    assert run("keys", "confirm", replica, absent, "ftp://x", now=now) == Done(
        1,
        f"pass  {replica}  the same keys\n"
        f"FAIL  {absent}  connection refused: nothing listens on 127.0.0.1 port 9\n"
        "FAIL  ftp://x  not an http or https URL (expected http://host:port)\n",
    )
    elsewhere = run("keys", "generate", "--keys", "elsewhere")
    other = elsewhere.out.split()[0]
    assert run("keys", "confirm", "--keys", "elsewhere", replica, now=NOW).out.startswith(
        f"FAIL  {replica}  lacks current {other}, still has {first}\n"
    )
    document = json.loads(run("keys", "confirm", "--json", replica, now=now).out)
    digest = KeyDirectory(PUBLIC).load().digest
    assert document["replicas"][0].pop("clock_offset_s") in (-1, 0, 1)
    found = {"url": replica, "digest": digest, "kids": [first], "ready": True, "problem": "", "same": True}
    found |= {"max_lifetime_s": 300, "leeway_s": 30, "version": __version__}
    assert document == {"key_set_digest": digest, "replicas": [found], "findings": []}


def test_confirm_sees_other_dates_and_a_replica_that_is_not_ready(run, first, monkeypatch):
    from verifier.rotation import replicas

    def query(url: str) -> replicas.Replica:
        return replicas.Replica(url, "another digest", (first,), ready=True, clock_offset_s=60, leeway_s=31)

    monkeypatch.setattr(replicas, "query", query)
    assert run("keys", "confirm", "http://x") == Done(
        1,
        "FAIL  http://x  has the same keys with other dates\n"
        "                its clock is 60 s fast, at most 15 s\n"
        "                the leeway is 31 s, expected 30 s\n",
    )


def test_confirm_records_what_each_replica_reported(run, first, monkeypatch):
    from verifier.rotation import replicas

    digest = KeyDirectory(PUBLIC).load().digest
    known = {
        "http://a": replicas.Replica("http://a", digest, (first,), True, "", -2, 300, 30, "1"),
        "http://b": replicas.Replica("http://b", problem="connection refused"),
        "http://c": replicas.Replica("http://c", digest, (first,), True, "", -60, 300, 31, "1"),
    }
    monkeypatch.setattr(replicas, "query", known.__getitem__)
    assert run("keys", "confirm", "--record", *known, now=NOW + 9).status == 1
    found = history.load(HISTORY.read_bytes())
    assert found.problems == ()
    common = {"at": NOW + 9, "by": found.events[0].by, "command": "confirm", "version": __version__}
    assert found.confirmations == (
        history.Confirmation(
            replica="http://a", key_set_digest=digest, confirmed=True, clock_offset_s=-2, max_lifetime_s=300,
            leeway_s=30, replica_version="1", **common,
        ),
        history.Confirmation(
            replica="http://b", key_set_digest="", confirmed=False, problem="connection refused", **common
        ),
        history.Confirmation(
            replica="http://c", key_set_digest=digest, confirmed=False, clock_offset_s=-60, max_lifetime_s=300,
            leeway_s=31, replica_version="1", **common,
            problem="its clock is 60 s slow, at most 15 s; the leeway is 31 s, expected 30 s",
        ),
    )  # fmt: skip
    assert run("keys", "audit", now=NOW + 9).status == 0


def test_a_rotation_for_shorter_tokens_than_the_replicas_accept_warns(run, first, monkeypatch):
    from verifier.rotation import replicas

    digest = KeyDirectory(PUBLIC).load().digest
    replica = replicas.Replica("http://a", digest, (first,), True, "", 0, 300, 30, "1")
    monkeypatch.setattr(replicas, "query", lambda url: replica)
    assert run("keys", "confirm", "--record", "http://a").status == 0
    done = run("keys", "rotate", "--max-lifetime", "60", "--leeway", "0")
    text = "the replicas were last confirmed with settings that need an overlap of 360 s, and this one is 60 s"
    assert (done.status, done.err.startswith(f"verifier: warning: {text}: set ")) == (0, True)
    assert run("keys", "cancel").status == 0
    assert run("keys", "rotate").err == ""


def test_audit_requires_that_the_history_continues_from_the_anchor(run, first):
    anchor = Anchor.of(HISTORY.read_bytes())
    assert run("keys", "rotate").status == 0
    done = run("keys", "audit", "--since", anchor)
    assert (done.status, done.out.splitlines()[1]) == (0, f"since   {anchor}: 2 line(s) added")
    wrong = f"1:{'0' * 64}"
    done = run("keys", "audit", "--since", wrong)
    assert done.status == 1
    assert done.out.startswith(f"critical  anchor: line 1 has digest {anchor.digest}, the anchor {'0' * 64}")
    assert run("keys", "report", "--json", "--since", wrong).status == 1
    assert run("keys", "audit", "--since", "1:x").status == 2
    signed = run("keys", "audit", "--require-signed")
    assert signed.out.startswith("high      signature: signatures are required, and the key directory is in no git")


def test_audit_is_silent_about_what_is_right(run, first):
    anchor = Anchor.of(HISTORY.read_bytes())
    text = "not a git checkout; nothing but the anchor proves the end of the history"
    assert run("keys", "audit") == Done(0, f"anchor  {anchor}\ncommit  {text}\n0 finding(s)\n")
    assert json.loads(run("keys", "audit", "--json").out) == {
        "schema_version": 1,
        "made_at": NOW,
        "version": __version__,
        "anchor": {"lines": 1, "digest": anchor.digest, "text": str(anchor)},
        "since": None,
        "git": {"present": False, "commit": "", "clean": None, "uncommitted": [], "problems": [], "unsearched": ""},
        "key_set_digest": KeyDirectory(PUBLIC).load().digest,
        "settings": {"max_lifetime_s": 300, "leeway_s": 30, "overlap_s": 360, "cryptoperiod_s": 90 * DAY},
        "findings": [],
    }


def test_audit_names_rule_remediation_and_source(run, first):
    done = run("keys", "audit", "--max-lifetime", 301)
    assert done == Done(
        1,
        "medium    lifetime: tokens may live 301 s, at most 300 s\n"
        "          lower VERIFIER_MAX_LIFETIME (RFC 6819 §5.1.5.3)\n"
        f"anchor  {Anchor.of(HISTORY.read_bytes())}\n"
        "commit  not a git checkout; nothing but the anchor proves the end of the history\n"
        "1 finding(s)\n",
    )
    assert json.loads(run("keys", "audit", "--json", "--cryptoperiod", "1h").out)["findings"][0] == {
        "severity": "medium",
        "rule": "cryptoperiod",
        "found": f"{first} has signed for 1 days, at most 1h",
        "clause": "NIST SP 800-57 Part 1 Rev. 5 §5.3.6",
        "remediation": "verifier keys rotate",
        "anchor": "rule-cryptoperiod",
    }


def test_report_is_a_page_or_json(run, first, tmp_path):
    assert run("keys", "report", "--html", "report.html") == Done(0, "report.html: 1 key(s), 0 finding(s)\n")
    assert first in (tmp_path / "report.html").read_text()
    assert json.loads(run("keys", "report", "--json").out)["keys"][0]["kid"] == first
    assert run("keys", "report").status == 2
    done = run("keys", "report", "--json", "--html", "x.html")
    assert (done.status, "--html FILE and --json cannot be combined" in done.err) == (2, True)
    Path("broken.json").write_text("{")
    done = run("keys", "report", "--json", "--applications", "broken.json")
    assert done.err.startswith("verifier: error: broken.json: the file is not valid JSON\n")
    done = run("keys", "report", "--json", "--applications", "none.json")
    assert done.err.startswith("verifier: error: none.json: cannot be read (No such file or directory)\n")
    done = run("keys", "report", "--html", "report.html", "--metrics", "http://127.0.0.1:9/metrics")
    assert (done.status, done.out) == (1, "report.html: 1 key(s), 1 finding(s)\n")
    problem = "medium: metrics. http://127.0.0.1:9/metrics: no metrics (connection refused"
    assert problem in re.sub("<.*?>", "", Path("report.html").read_text())


def test_ten_rotations_leave_every_key_with_its_stage(run, first):
    now = NOW
    for _ in range(10):
        assert run("keys", "rotate", now=now).status == 0
        now += 90 * DAY
    found = list(states(now).values())
    assert found == [KeyState.EXPIRED] * 10 + [KeyState.CURRENT]
    assert run("keys", "audit", "--cryptoperiod", "91d", now=now).out.count("private-kept") == 10
    assert run("keys", "prune", now=now).status == 0
    done = run("keys", "audit", "--cryptoperiod", "104d", now=now)
    assert (done.status, done.out.splitlines()[-1]) == (0, "0 finding(s)")
    assert len(events()) == 1 + 10 * 2 + 10
