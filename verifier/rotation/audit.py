"""The rules of the audit: what could reject a player, let a wrong token in, or hide a change."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from verifier.core.times import MAX_LIFETIME_S, duration
from verifier.rotation import file_checks, history_checks, key_checks, replica_checks, switch_checks
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import PROPAGATION_S
from verifier.rotation.replicas import Replica
from verifier.rotation.violation import Violation, Violations

SEVERITIES = ("critical", "high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold. The id is stable: other systems refer to it."""

    id: str
    severity: str  # critical: forged or rejected sign-ins now; high: soon or likely; medium: later; low: a reminder
    requirement: str
    clause: str  # of the standard that it follows
    remediation: str
    check: Callable[[Inventory], Violations]
    needs: str = ""  # without which it cannot be violated, as `Inventory.has` knows it

    @property
    def anchor(self) -> str:
        """The place of the rule on the report page."""
        return f"rule-{self.id}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold."""

    severity: str
    rule: str
    found: str
    clause: str
    remediation: str
    anchor: str

    @property
    def fails(self) -> bool:
        """Whether it causes exit status 1; a reminder does not."""
        return self.severity != "low"


def findings(inventory: Inventory, rules: "tuple[Rule, ...] | None" = None) -> list[Finding]:
    """Return every violation of these rules or of all, in their order."""
    found = []
    for rule in RULES if rules is None else rules:
        for violation in rule.check(inventory):
            if isinstance(violation, str):
                violation = Violation(violation)
            remediation = violation.remediation or rule.remediation
            found.append(Finding(rule.severity, rule.id, violation.found, rule.clause, remediation, rule.anchor))
    return found


def replica_findings(inventory: Inventory, replica: Replica) -> list[Finding]:
    """Return the violations of one replica; their texts do not repeat its URL."""
    found = findings(replace(inventory, replicas=(replica,)), REPLICA_RULES)
    return [replace(finding, found=finding.found.removeprefix(replica.url).lstrip(": ")) for finding in found]


def worst(found: list[Finding]) -> Finding | None:
    """Return the first of the most severe findings."""
    return min(found, key=lambda finding: SEVERITIES.index(finding.severity), default=None)


_NIST = "NIST SP 800-57 Part 1 Rev. 5"
_STORAGE = "OWASP Key Management Cheat Sheet, Storage"
_LOGS = "NIST SP 800-92 §2.3.2"
_STOLEN = "treat the key as stolen: verifier keys revoke --replace"
_REVIEWED = "find out what players saw then; after the review, audit from its anchor on: --since N:DIGEST"
REPLICA_RULES = (
    Rule("replica-revoked", "critical", "no replica trusts a revoked key", f"{_NIST} §5.3.4",
         "deploy keys/public to the replica, then verifier keys confirm", replica_checks.trusts_revoked,
         needs="--replica URL"),
    Rule("replica-response", "high", "every replica responds", "this project: what did not respond is not proven",
         "start the replica, or correct its URL", replica_checks.unreachable, needs="--replica URL"),
    Rule("replica-keys", "high", "every replica serves with the keys that are here", f"{_NIST} §5.3.4",
         "deploy keys/public to the replica; check how the volume is mounted (no subPath)", replica_checks.differs,
         needs="--replica URL"),
    Rule("replica-clock", "high", "every replica's clock is right", "RFC 7519 §4.1.4",
         "correct the clock of the replica (NTP)", replica_checks.clocks, needs="--replica URL"),
    Rule("replica-settings", "high", "every replica runs with these settings", "RFC 6819 §5.1.5.3",
         "set VERIFIER_MAX_LIFETIME and VERIFIER_LEEWAY alike everywhere, or name them: --max-lifetime, --leeway",
         replica_checks.settings, needs="--replica URL"),
)  # fmt: skip
RULES = (
    *REPLICA_RULES,
    Rule("private-in-public", "critical", "no private key material in public/", "RFC 7517 §9.2",
         f"{_STOLEN}, then remove the file", file_checks.private_in_public),
    Rule("private-tracked", "critical", "git has never recorded a private key", _STORAGE,
         f"{_STOLEN}; git rm --cached the file; a past commit keeps it until the repository is rewritten",
         lambda inventory: inventory.witness.private, needs="a git checkout"),
    Rule("private-elsewhere", "critical", "private keys are in private/ only", _STORAGE,
         "move the file out of the key directory; if others could read it, verifier keys revoke --replace",
         file_checks.private_elsewhere),
    Rule("anchor", "critical", "the history continues from the anchor", _LOGS,
         "compare with the commit of the anchor: git log -p -- '*history.jsonl'; restore the history",
         lambda inventory: [inventory.since_problem] if inventory.since_problem else [], needs="--since N:DIGEST"),
    Rule("history-rewritten", "critical", "every committed line is still in the history", _LOGS,
         "restore history.jsonl and public/ from the commit that is named",
         lambda inventory: inventory.witness.rewritten, needs="a git checkout"),
    Rule("history-transitions", "critical", "every line records a change that a command makes", _LOGS,
         "find the line in version control; revoke what it trusts again, and restore the dates that it changed",
         history_checks.transitions),
    Rule("no-current", "critical", "a key is current", f"{_NIST} §5.3",
         "verifier keys generate, or rotate ahead of time", key_checks.no_current),
    Rule("interrupted", "critical", "no command was interrupted", "this project: commands are all or nothing",
         "run any command that changes keys; it completes or abandons the interrupted one first",
         history_checks.unfinished),
    Rule("git", "high", "git can be queried", _LOGS,
         "run git status in the key directory as this account, and repair what it reports (another owner: "
         "git config --global --add safe.directory FOLDER)", history_checks.git_problems),
    Rule("kid", "high", "kid and file name are the key's thumbprint", "RFC 7638 §3",
         "restore the file from version control", file_checks.problems(*file_checks.KID)),
    Rule("strength", "high", "keys are P-256, Ed25519, or RSA of 2048 to 8192 bits", f"RFC 7518 §3.3, {_NIST} §5.6.1",
         "replace the key: verifier keys rotate", file_checks.problems(*file_checks.STRENGTH)),
    Rule("unusable-file", "high", "every file of public/ can be used", "RFC 7517 §4",
         "restore the file from version control, or repair it", file_checks.unusable),
    Rule("overlap", "high", "a key verifies until its last token has expired, allowing for clock skew",
         f"{_NIST} §5.3.4",
         "before the switch: verifier keys cancel, then rotate again; after it, set exp to the successor's nbf + "
         "lifetime + 2 x leeway, and record it: verifier keys merge", switch_checks.overlap),
    Rule("successor", "high", "a key that ends has a successor", f"{_NIST} §5.3.4",
         "verifier keys rotate", key_checks.no_successor),
    Rule("private-missing", "high", "where private keys are, those of the current and the pending key are",
         f"{_NIST} §8.2.1", "copy the file here with mode 0600, or before the switch: verifier keys cancel",
         file_checks.private_missing, needs="private keys"),
    Rule("private-imported", "low", "the private key of an imported key is here, or in a KMS or HSM",
         f"{_NIST} §8.2.1", "none if a KMS or HSM signs with it; otherwise copy the file here with mode 0600",
         lambda inventory: file_checks.private_missing(inventory, imported=True), needs="private keys"),
    Rule("private-mode", "high", "private keys are 0600 in a 0700 folder", _STORAGE,
         "chmod 700 keys/private; chmod 600 keys/private/*.pem", file_checks.private_mode, needs="private keys"),
    Rule("writable", "high", "only the owner changes the key directory", _STORAGE,
         "chmod -R o-w on the key directory", file_checks.writable),
    Rule("history-chain", "high", "the history is unbroken", _LOGS,
         "find the change in version control; after a merge of two branches: verifier keys merge",
         lambda inventory: inventory.history.problems),
    Rule("history-time", "high", "time never runs backwards in the history and is never in the future", _LOGS,
         "find the change in version control; correct the clock of the machine that wrote the line",
         history_checks.times),
    Rule("history-agrees", "high", "the history and the files agree", _LOGS,
         "find the change that no command made in version control, and restore the file", history_checks.agrees),
    Rule("key-origin", "medium", "a command created every key", _LOGS,
         "find who added the file in version control; if the key is not yours: verifier keys revoke --replace; "
         "otherwise, after the review, audit from its anchor on: --since N:DIGEST", history_checks.origins),
    Rule("secrets-agree", "high", "the history and the applications file agree", _LOGS,
         "find the change that no command made, and restore the file", file_checks.secrets_agree,
         needs="--applications FILE"),
    Rule("signature", "high", "each line was committed with a valid signature (with --require-signed)", _LOGS,
         "if it is signed, import the author's public key (gpg --import, or gpg.ssh.allowedSignersFile in git config "
         "--global); if not, review it with its author, and audit from its anchor on: --since N:DIGEST",
         history_checks.signatures, needs="--require-signed"),
    Rule("uncommitted", "medium", "the working tree is as committed", "this project: a change is approved as a diff",
         "commit the change after review; undo a rotation with verifier keys cancel, not with git",
         history_checks.uncommitted, needs="a git checkout"),
    Rule("members", "medium", "public keys have registered members only", "RFC 7517 §4, §4.3",
         "restore the file from version control", file_checks.members),
    Rule("overlapping-currents", "medium", "a key with a successor has an expiry", f"{_NIST} §5.3.4",
         "verifier keys revoke, or restore exp from version control", key_checks.endless_retiring),
    Rule("pending-window", "medium",
         f"a key is published {duration(PROPAGATION_S)} or more before it signs, or confirmed on every replica",
         "this project: every replica must have it",
         "verifier keys confirm --record URL... before it signs, or cancel it", switch_checks.short_lead),
    Rule("late-change", "high",
         f"a change is deployed {duration(PROPAGATION_S)} or more before a key begins, or would have begun, to sign",
         "this project: every replica must have it",
         "do not merge or deploy it: make its changes again on top of what is deployed, a revocation at once",
         key_checks.late,
         needs="--deployed FOLDER"),
    Rule("key-use", "high",
         f"no key is used {duration(PROPAGATION_S)} or more after its end, or without ever being here",
         f"{_NIST} §5.3.4",
         "find the replica that accepts it: verifier keys confirm URL...; deploy keys/public to it, and restart it",
         key_checks.late_uses, needs="--metrics URL"),
    Rule("one-pending", "medium", "at most one key is pending", "this project: one change at a time",
         "verifier keys cancel", key_checks.pending_twice),
    Rule("cryptoperiod", "medium", "a key signs no longer than its cryptoperiod", f"{_NIST} §5.3.6",
         "verifier keys rotate", key_checks.cryptoperiod),
    Rule("private-kept", "medium", "a private key does not outlive its public key", f"{_NIST} §8.3.4",
         "verifier keys prune", file_checks.private_kept),
    Rule("weak-secret", "medium", "secrets have 16 characters or more and no outer white space", "RFC 6749 §10.10",
         "verifier applications rotate-secret with a random one", file_checks.weak_secrets,
         needs="--applications FILE"),
    Rule("shared-secret", "medium", "no secret is that of two applications, or in use again", "RFC 6749 §2.3.1",
         "verifier applications rotate-secret for one of them", file_checks.shared_secrets,
         needs="--applications FILE"),
    Rule("lifetime", "medium", f"tokens live {MAX_LIFETIME_S} s at most", "RFC 6819 §5.1.5.3",
         "lower VERIFIER_MAX_LIFETIME", key_checks.lifetime),
    Rule("metrics", "medium", "every metrics page responds", "this project: what did not respond is not proven",
         "start the server, or correct its URL", lambda inventory: inventory.metrics_problems, needs="--metrics URL"),
    Rule("rotation-due", "low", "a successor is pending 14 days before the cryptoperiod ends", f"{_NIST} §5.3.6",
         "verifier keys rotate", key_checks.rotation_due),
    Rule("past-switch", "low", "past switches had a long enough overlap, and every replica had the key in time",
         f"{_NIST} §5.3.4", _REVIEWED, switch_checks.past),
    Rule("past-cryptoperiod", "low", "past keys signed no longer than their cryptoperiod", f"{_NIST} §5.3.6", _REVIEWED,
         switch_checks.past_cryptoperiod),
)  # fmt: skip
