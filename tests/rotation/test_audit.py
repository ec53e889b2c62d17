"""Every rule of the audit: silent about what is right, and about one wrong thing exactly one finding."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conftest import APPLICATION_ID, NOW
from tests.rotation.test_tampering import git
from tests.support import forge
from verifier.core.applications import Applications, Secret
from verifier.core.keyring import KeyState
from verifier.core.times import LEAD_S, format_duration, utc
from verifier.errors import ConfigError
from verifier.rotation import audit, history
from verifier.rotation.audit import RULES, findings
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy, Planner, activate_first_key
from verifier.rotation.secret_changes import add_secret, dump
from verifier.signing import keystore
from verifier.signing.keystore import Keystore
from verifier.storage import journal

DAY = 86_400
SWITCH = NOW + 3600


@pytest.fixture
def store(tmp_path) -> Keystore:
    """One key, current for a day, made by the rules."""
    store = Keystore(tmp_path / "keys")
    jwk, pem = store.generate_pair("ES256")
    with store.transaction():
        store.apply([activate_first_key(jwk, now=NOW - DAY)], "generate", now=NOW - DAY, pem=pem)
    return store


def schedule(store: Keystore, lead_s: int = LEAD_S, **options: Any) -> str:
    jwk, pem = store.generate_pair("ES256")
    with store.transaction() as keyring:
        store.apply(Planner(keyring, NOW, **options).rotate(jwk, lead_s), "rotate", now=NOW, pem=pem)
    return str(jwk["kid"])


@pytest.fixture
def first(store) -> str:
    return store.public.load().current(NOW).kid


@pytest.fixture
def audited(store):
    """The findings, as (rule, found)."""

    def audited(now: int = NOW, **options: Any) -> list[tuple[str, str]]:
        window = OverlapPolicy(options.pop("max_lifetime_s", 300))
        defaults: dict[str, Any] = {"applications": None, "cryptoperiod_s": 90 * DAY}
        state = Inventory.read(store.public.folder.parent, now=now, window=window, **(defaults | options))
        return [(finding.rule, finding.found) for finding in findings(state)]

    return audited


def commit(folder: Path, *options: str) -> None:
    """Commit everything that is not ignored."""
    git(folder, "add", "-A", ".")
    git(folder, "commit", "-qm", "x", *options)


def edit(store: Keystore, name: str, /, remember: bool = True, **changes: Any) -> None:
    """Change a public file by hand; `remember` writes it into the history, so that only the file is wrong."""
    path = store.public.folder / f"{name}.json"
    members = forge.changed(json.loads(path.read_text()), changes)
    path.write_text(json.dumps(members))
    if remember:
        event = history.Event(
            at=NOW,
            by="ann",
            command="edit",
            kid=name,
            old="current",
            new="current",
            nbf=members["nbf"],
            exp=members.get("exp"),
        )
        store.history.write_bytes(history.append(store.read_history(), [event]))


def test_every_rule_has_a_unique_name_a_source_and_a_remediation():
    assert len({rule.id for rule in RULES}) == len(RULES) == 45
    assert all(rule.clause and rule.remediation and rule.requirement for rule in RULES)
    assert {rule.severity for rule in RULES} == {"critical", "high", "medium", "low"}


def test_a_key_made_by_the_rules_has_no_findings_at_any_stage_of_a_rotation(store, audited):
    assert audited() == []
    first, second = store.public.load().current(NOW).kid, schedule(store)
    for now in (NOW, SWITCH - 1, SWITCH, SWITCH + 359):
        assert audited(now) == []
    kept = [("private-kept", f"{store.private}/{first}.pem belongs to no key that verifies")]
    assert audited(SWITCH + 360) == kept
    (store.private / f"{first}.pem").unlink()
    assert audited(SWITCH + 360) == []
    assert store.public.keyring.current(SWITCH).kid == second


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("key.pem", "-----BEGIN PRIVATE KEY-----\nMIG"),
        ("key.txt", "-----BEGIN EC PRIVATE KEY-----\nMHc"),
        ("notes", '{"kty": "EC", "d" : "x"}'),
        ("lines.jsonl", '{"kty": "EC", "d" : "x"}'),
        ("below/deep/copy.txt", '{"kty": "EC", "d" : "x"}'),
        ("below/..data/key.txt", "-----BEGIN PRIVATE KEY-----\nMIG"),
    ],
)
def test_private_key_material_in_public_is_found_whatever_the_file_is_called(store, audited, name, content):
    path = store.public.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert audited() == [("private-in-public", f"{path} holds private key material")]


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
@pytest.mark.parametrize("folder", ["public/below", "old"])
def test_a_private_key_in_der_is_found_whatever_the_file_is_called(store, audited, alg, form, folder):
    if (alg, form) == ("EdDSA", "TraditionalOpenSSL"):
        return  # there is no such form
    path = store.private.parent / folder / "backup"
    path.parent.mkdir()
    path.write_bytes(keystore.generate(alg).private_bytes(Encoding.DER, getattr(PrivateFormat, form), NoEncryption()))
    rule = "private-elsewhere" if folder == "old" else "private-in-public"
    assert [name for name, _ in audited()] == [rule]


@pytest.mark.parametrize("name", ["below/{}.json", "below/deep/jwks.txt", "{}.json.bak", "{}.JSON", ".{}.json"])
def test_a_public_key_that_no_replica_reads_is_found(store, audited, first, name):
    path = store.public.folder / name.format(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (store.public.folder / f"{first}.json").read_text()
    path.write_text(content if "jwks" not in name else f'{{"keys": [{content}]}}')
    expected = f"holds a public key that no replica reads (expected: {store.public.folder}/<kid>.json)"
    assert audited() == [("unusable-file", f"{path} {expected}")]


def test_a_volume_of_kubernetes_has_no_file_that_is_not_read(store, audited, first):
    version = store.public.folder / "..2027_01_15"
    version.mkdir()
    (store.public.folder / f"{first}.json").rename(version / f"{first}.json")
    (store.public.folder / "..data").symlink_to(version.name)
    (store.public.folder / f"{first}.json").symlink_to(f"..data/{first}.json")
    (store.public.folder / "README.md").write_text("Public keys.")
    assert audited() == []


def test_a_private_jwk_in_public_is_found(store, audited, first):
    edit(store, first, d="x")
    found = dict(audited())
    assert found["private-in-public"] == f"{store.public.folder / first}.json holds private key material"
    assert "no-current" in found


def test_a_private_file_that_git_tracks_is_found(store, audited, first):
    folder = store.private.parent
    (folder / ".gitignore").write_text("/private/\n")
    subprocess.run(["git", "init", "-q", folder], check=True)
    commit(folder)
    assert audited() == []
    subprocess.run(["git", "add", "--force", store.private / f"{first}.pem"], cwd=folder, check=True)
    assert audited() == [("private-tracked", f"private/{first}.pem is tracked")]


def test_git_that_is_missing_is_found_where_there_is_a_repository(store, audited, monkeypatch):
    subprocess.run(["git", "init", "-q", store.private.parent], check=True)
    monkeypatch.setenv("PATH", "")
    assert audited() == [("git", "git could not be started (No such file or directory)")]


def test_outside_a_repository_git_is_not_needed(store, audited, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert audited() == []


def test_no_current_key_is_found(store, audited, first):
    edit(store, first, nbf=NOW + 1, iat=NOW - DAY)
    moved = ("history-transitions", f"line 2: {first} has another nbf, although it was active already")
    assert audited() == [moved, ("no-current", "no key is current: every sign-in is rejected")]
    assert audited(NOW + 1) == [moved]


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_command_is_found_and_finished_by_the_next(store, audited):
    with store.transaction() as keyring, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Directory, "_apply", killed)
        change = Planner(keyring, NOW, force=True).revoke(keyring.current(NOW), "x")
        with pytest.raises(KeyboardInterrupt):
            store.apply(change, "revoke", now=NOW)
    text = "a command was interrupted; its change is written down and not carried out"
    assert audited() == [("interrupted", text)]
    with store.transaction():
        pass
    assert dict(audited()).keys() == {"no-current", "private-kept"}  # the revocation was finished


@pytest.mark.parametrize(
    ("rule", "changes", "says"),
    [
        ("kid", {"kid": "x"}, "kid does not match the key (found x, expected "),
        ("strength", {"alg": "RS256"}, "kty and crv do not fit alg RS256 (expected RSA)"),
        ("strength", {"alg": "HS256"}, "alg is missing or not supported (expected ES256, EdDSA or RS256)"),
        ("unusable-file", {"use": "enc"}, "use is not sig"),
    ],
)
def test_a_file_that_cannot_be_used_is_found_under_its_rule(store, audited, first, rule, changes, says):
    edit(store, first, remember=False, **changes)
    found = dict(audited())
    assert found[rule].startswith(f"{store.public.folder}/{first}.json: {says}")
    assert found.keys() == {rule, "no-current", "history-agrees"}


def test_a_file_under_another_name_is_found(store, audited, first):
    path = store.public.folder / f"{first}.json"
    path.rename(path.with_name("other.json"))
    assert dict(audited())["kid"].endswith(
        f"other.json: file name does not match the key (found other, expected {first})"
    )


def test_an_overlap_that_is_too_short_is_found_until_it_is_over(store, audited, first):
    second = schedule(store)
    (store.private / f"{first}.pem").unlink()
    edit(store, first, exp=SWITCH + 359)
    expected = ("overlap", f"{first} expires 2027-01-15 09:05:59 UTC, its last tokens 2027-01-15 09:06:00 UTC")
    assert audited(SWITCH) == [expected]
    assert expected in audited(SWITCH - 1)
    assert audited(SWITCH + 360) == [
        ("past-switch", "switch 1, 2027-01-15 09:00:00 UTC: the old key ended 1 s too early")
    ]
    assert second


def test_a_key_that_ends_without_a_successor_is_found(store, audited, first):
    edit(store, first, exp=NOW + 100)
    text = f"{first} is the last key and expires 2027-01-15 08:01:40 UTC: every sign-in is rejected after that"
    assert audited() == [("successor", text)]


def test_open_modes_are_found(store, audited, first):
    store.private.chmod(0o750)
    (store.private / f"{first}.pem").chmod(0o640)
    assert audited() == [
        ("private-mode", f"{store.private} has mode 0750, expected 0700"),
        ("private-mode", f"{store.private}/{first}.pem has mode 0640, expected 0600"),
    ]


def test_a_broken_chain_is_found(store, audited):
    schedule(store)
    store.history.write_bytes(store.read_history().replace(b'"generate"', b'"import"'))
    assert audited() == [("history-chain", "line 2 does not continue line 1: a line was changed or removed")]


def test_a_change_that_no_command_made_is_found(store, audited, first):
    edit(store, first, remember=False, iat=NOW - DAY - 1, nbf=NOW - DAY - 1)
    assert audited() == [
        (
            "history-agrees",
            f"{first}: {name} is 2027-01-14 07:59:59 UTC in the file, 2027-01-14 08:00:00 UTC in the history",
        )
        for name in ("iat", "nbf")
    ]
    (store.public.folder / f"{first}.json").unlink()
    assert ("history-agrees", f"{first} is in the history and not in public/") in audited()
    stranger = forge.Pair("ES256", keystore.generate("ES256")).public | {"iat": NOW - DAY, "nbf": NOW - DAY}
    (store.public.folder / f"{stranger['kid']}.json").write_text(json.dumps(stranger))
    assert ("history-agrees", f"{stranger['kid']} is in public/ and not in the history") in audited()


def test_a_retiring_key_without_an_end_is_found(store, audited, first):
    schedule(store)
    (store.private / f"{first}.pem").unlink()
    edit(store, first, exp=forge.ABSENT)
    assert audited(SWITCH) == [("overlapping-currents", f"{first} has a successor and no expiry")]


def test_a_short_lead_is_found_while_the_key_is_pending(store, audited, first):
    second = schedule(store, lead_s=PROPAGATION_S - 1, force=True)
    assert audited() == [("pending-window", f"{second} was published 9 min 59 s before it signs")]
    (store.private / f"{first}.pem").unlink()
    assert audited(NOW + PROPAGATION_S - 1) == [
        ("pending-window", f"{second} was published 9 min 59 s before it signed")
    ]


def test_two_pending_keys_are_found(store, audited):
    schedule(store)
    jwk, pem = store.generate_pair("ES256")
    with store.transaction():
        store.apply([activate_first_key(jwk | {"nbf": NOW + 9000}, now=NOW)], "generate", now=NOW, pem=pem)
    assert ("one-pending", "2 keys are pending") in audited()
    state = Inventory.read(store.public.folder.parent, now=NOW, window=OverlapPolicy())
    [finding] = [finding for finding in findings(state) if finding.rule == "one-pending"]
    cancel = [f"verifier keys cancel --kid {key.kid[:8]}" for key in state.keys_in(KeyState.PENDING)]
    assert finding.remediation == f"withdraw all but one: {' or '.join(cancel)}"


def test_a_key_is_too_old_after_its_cryptoperiod(store, audited, first):
    due = [("rotation-due", f"{first} must be rotated by 2027-04-14 08:00:00 UTC")]
    assert audited(NOW + 75 * DAY) == []
    assert audited(NOW + 75 * DAY + 1) == due == audited(NOW + 89 * DAY)
    text = f"{first} has signed for 90 days, at most 90d"
    assert audited(NOW + 89 * DAY + 1) == [("cryptoperiod", text)]


def test_a_private_key_that_belongs_to_no_public_key_is_found(store, audited):
    (store.private / "orphan.pem").touch(0o600)
    assert audited() == [("private-kept", f"{store.private}/orphan.pem belongs to no key that verifies")]


def test_weak_secrets_are_found(store, audited, tmp_path):
    path = tmp_path / "applications.json"
    path.write_bytes(dump(add_secret(Applications(), APPLICATION_ID, Secret.of("x" * 16))))
    assert audited(applications=path) == []
    path.write_bytes(dump(add_secret(Applications(), APPLICATION_ID, Secret.of("x" * 15))))
    text = f"secret 1 of application {APPLICATION_ID} is weak: shorter than 16 characters"
    assert audited(applications=path) == [("weak-secret", text)]


def test_a_long_lifetime_is_found(audited):
    assert audited(max_lifetime_s=300) == []
    assert audited(max_lifetime_s=301) == [("lifetime", "tokens may live 301 s, at most 300 s")]


def test_what_cannot_be_read_is_an_error_and_not_a_clean_audit(tmp_path, audited):
    with pytest.raises(ConfigError, match=r"(?m)nowhere/public: cannot be read \(No such file or directory\)$"):
        Inventory.read(tmp_path / "nowhere", now=NOW, window=OverlapPolicy(), applications=None, cryptoperiod_s=1)
    with pytest.raises(ConfigError, match=r"(?m)missing: cannot be read \(No such file or directory\)$"):
        audited(applications=Path(tmp_path / "missing"))


def test_a_folder_of_public_keys_alone_is_audited(store, audited):
    import shutil

    shutil.rmtree(store.private)
    assert audited() == []
    assert audit.findings is findings


def test_a_key_that_is_used_after_its_end_or_that_was_never_here_is_found(store, audited, first):
    second = schedule(store)
    end = SWITCH + 360

    def uses(kid: str, at: float) -> list[tuple[str, str]]:
        last_use = {("key", kid): at, ("secret", "app 1"): at}
        return audited(now=end + 2 * PROPAGATION_S, metrics=True, last_use=last_use)

    (store.private / f"{first}.pem").unlink()
    assert uses(second, end) == uses(first, end + PROPAGATION_S) == []
    late = end + PROPAGATION_S + 1
    assert uses(first, late) == [
        ("key-use", f"a token of {first} was accepted {utc(late)}, {format_duration(late - end)} after it expired")
    ]
    assert uses("foreign", NOW + 0.5) == [
        ("key-use", f"a token of foreign was accepted {utc(NOW)}, and no such key was ever here")
    ]
