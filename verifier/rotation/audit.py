"""What could refuse a player or let a wrong token in: rules over keys, private halves, history and secrets."""

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifier.core import applications as apps
from verifier.core.jwk import PRIVATE_MEMBERS
from verifier.core.keyring import Keyring, KeyState, PublicKey
from verifier.core.rules import MAX_LIFETIME_S
from verifier.core.times import duration, utc
from verifier.errors import ConfigError
from verifier.rotation import history
from verifier.rotation.plan import PROPAGATION_S, OverlapPolicy
from verifier.storage.key_directory import KeyDirectory


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything the rules look at, read once."""

    now: int
    keyring: Keyring
    problems: tuple[str, ...]  # public files that cannot be used, and why
    public: Mapping[str, bytes]  # every file of keys/public, whatever its name
    private: Mapping[str, int]  # mode by path of every file of keys/private, and of the folder itself
    tracked: tuple[str, ...]  # private files that git tracks
    unfinished: bool  # a command was interrupted
    events: tuple[history.Event, ...]
    chain_problems: tuple[str, ...]
    weak_secrets: tuple[str, ...]
    window: OverlapPolicy
    cryptoperiod_s: int

    @classmethod
    def read(
        cls, folder: Path, *, now: int, window: OverlapPolicy, applications: Path | None, cryptoperiod_s: int
    ) -> "Inventory":
        """The inventory of a key directory, and of an applications file; raises ConfigError when one cannot be read."""
        directory = KeyDirectory(folder / "public")
        directory.refresh()
        if not directory.folder.is_dir():
            raise ConfigError(directory.problems[0], hint="make the first key: verifier keys generate")
        private, trail = folder / "private", folder / "history.jsonl"
        paths = [
            path for path in (private, *sorted(private.glob("*"))) if path.exists() and not path.name.startswith(".")
        ]
        events, broken = history.read(trail.read_bytes() if trail.exists() else b"")
        return cls(
            now=now,
            keyring=directory.keyring,
            problems=directory.problems,
            public={p.name: p.read_bytes() for p in sorted(directory.folder.iterdir()) if p.is_file()},
            private={str(path): path.stat().st_mode & 0o777 for path in paths},
            tracked=_tracked(private),
            unfinished=(private / ".commit.json").exists(),
            events=tuple(events),
            chain_problems=tuple(broken),
            weak_secrets=_weak_secrets(applications),
            window=window,
            cryptoperiod_s=cryptoperiod_s,
        )

    def live_keys(self) -> list[PublicKey]:
        """Keys that verify now or will, by nbf."""
        return [key for key in self.keyring.keys.values() if not key.has_ended(self.now)]

    def keys_in(self, *states: KeyState) -> list[PublicKey]:
        """Keys in one of these states."""
        return [key for key in self.keyring.keys.values() if self.keyring.state(key, self.now) in states]


def _tracked(private: Path) -> tuple[str, ...]:
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--", "."],  # noqa: S607
            cwd=private,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git, or no such folder: nothing is tracked
        return ()
    return tuple(name for name in done.stdout.split("\0") if name)


def _weak_secrets(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        known, problems = apps.parse(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from exc
    return (*known.weaknesses(), *problems)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold."""

    name: str
    severity: str  # critical: forged or refused sign-ins now; high: soon or likely; medium: later
    requirement: str
    source: str
    remediation: str
    check: Callable[[Inventory], Iterator[str]]  # what was found, one text for each violation


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold."""

    severity: str
    rule: str
    found: str
    source: str
    remediation: str


def findings(inventory: Inventory) -> list[Finding]:
    """Every violation of every rule, in the order of the rules."""
    return [Finding(r.severity, r.name, found, r.source, r.remediation) for r in RULES for found in r.check(inventory)]


def _private_in_public(inventory: Inventory) -> Iterator[str]:
    members = rb'"(?:' + "|".join(sorted(PRIVATE_MEMBERS)).encode() + rb')"\s*:'
    for name, data in inventory.public.items():
        if b"PRIVATE KEY-----" in data or re.search(members, data):
            yield f"{name} holds private key material"


def _problems(*words: str) -> Callable[[Inventory], Iterator[str]]:
    """The files that were left out for one of these causes; without words, those left out for any other."""

    def check(inventory: Inventory) -> Iterator[str]:
        every = ("private key material", *_KID, *_STRENGTH)
        for problem in inventory.problems:
            if any(word in problem for word in words) if words else not any(word in problem for word in every):
                yield problem

    return check


_KID = ("kid does not match", "file name does not match")
_STRENGTH = ("RSA key of the wrong size", "kty and crv do not fit", "kty is not supported", "alg is missing", "octets")


def _private_mode(inventory: Inventory) -> Iterator[str]:
    for path, mode in inventory.private.items():
        expected = 0o600 if path.endswith(".pem") else 0o700
        if (Path(path).is_dir() or path.endswith(".pem")) and mode & ~expected:
            yield f"{path} has mode {mode:04o}, expected {expected:04o}"


def _private_tracked(inventory: Inventory) -> Iterator[str]:
    for name in inventory.tracked:
        yield f"git tracks private/{name}"


def _private_kept(inventory: Inventory) -> Iterator[str]:
    alive = {key.kid for key in inventory.live_keys()}
    for path in inventory.private:
        if path.endswith(".pem") and Path(path).stem not in alive:
            yield f"{path} belongs to no key that verifies"


def _no_current(inventory: Inventory) -> Iterator[str]:
    if inventory.keyring.current(inventory.now) is None:
        yield "no key is current: every sign-in is refused"


def _no_successor(inventory: Inventory) -> Iterator[str]:
    alive = inventory.live_keys()
    if alive and alive[-1].exp is not None:
        yield f"{alive[-1].kid} is the last key and ends {utc(alive[-1].exp)}: nobody can sign in after that"


def _overlap(inventory: Inventory) -> Iterator[str]:
    # Also of a key that has expired: its tokens are refused until they would have.
    kept = [key for key in inventory.keyring.keys.values() if key.revoked_at is None]
    for key, successor in itertools.pairwise(kept):
        needed = successor.nbf + inventory.window.overlap_s
        if key.exp is not None and key.exp < needed and inventory.now < needed:
            yield f"{key.kid} ends {utc(key.exp)}, its last tokens {utc(needed)}"


def _endless_retiring(inventory: Inventory) -> Iterator[str]:
    for key in inventory.live_keys()[:-1]:
        if key.exp is None:
            yield f"{key.kid} has a successor and no end"


def _pending_window(inventory: Inventory) -> Iterator[str]:
    for key in inventory.keys_in(KeyState.PENDING):
        if key.nbf - key.iat < PROPAGATION_S:
            yield f"{key.kid} was published {duration(key.nbf - key.iat)} before it signs"


def _pending_twice(inventory: Inventory) -> Iterator[str]:
    pending = inventory.keys_in(KeyState.PENDING)
    if len(pending) > 1:
        yield f"{len(pending)} keys are pending"


def _cryptoperiod(inventory: Inventory) -> Iterator[str]:
    for key in inventory.keys_in(KeyState.CURRENT):
        if inventory.now - key.nbf > inventory.cryptoperiod_s:
            age_d = (inventory.now - key.nbf) // 86_400
            yield f"{key.kid} has signed for {age_d} days, at most {duration(inventory.cryptoperiod_s)}"


def _weak(inventory: Inventory) -> Iterator[str]:
    yield from inventory.weak_secrets


def _lifetime(inventory: Inventory) -> Iterator[str]:
    if inventory.window.max_lifetime_s > MAX_LIFETIME_S:
        yield f"tokens may live {inventory.window.max_lifetime_s} s, at most {MAX_LIFETIME_S} s"


def _chain(inventory: Inventory) -> Iterator[str]:
    yield from inventory.chain_problems


def _history_agrees(inventory: Inventory) -> Iterator[str]:
    told = history.replay(inventory.events)
    held: dict[str, dict[str, Any]] = {
        key.kid: {"nbf": key.nbf, "exp": key.exp, "revoked_at": key.revoked_at}
        for key in inventory.keyring.keys.values()
    }
    for kid in sorted(told.keys() | held.keys()):
        if kid not in held:
            yield f"{kid} is in the history and not in public/"
        elif kid not in told:
            yield f"{kid} is in public/ and not in the history"
        elif told[kid] != held[kid]:
            yield f"{kid} has other dates than the history says"


def _unfinished(inventory: Inventory) -> Iterator[str]:
    if inventory.unfinished:
        yield "a command was interrupted; its change is written down and not carried out"


_NIST = "NIST SP 800-57 Part 1 Rev. 5"
RULES = (
    Rule(
        "private-in-public", "critical", "no private key material in public/", "RFC 7517 §9.2",
        "treat the key as stolen: verifier keys revoke --replace, then remove the file", _private_in_public,
    ),
    Rule(
        "private-tracked", "critical", "git tracks no private half", "OWASP Key Management Cheat Sheet, Storage",
        "treat the key as stolen: verifier keys revoke --replace; git rm --cached, and ignore keys/private/",
        _private_tracked,
    ),
    Rule(
        "no-current", "critical", "a key is current", f"{_NIST} §5.3",
        "verifier keys generate, or rotate ahead of time", _no_current,
    ),
    Rule(
        "interrupted", "critical", "no command is half done", "this project: commands are all or nothing",
        "run any command that changes keys; it finishes the interrupted one first", _unfinished,
    ),
    Rule(
        "kid", "high", "kid and file name are the key's thumbprint", "RFC 7638 §3",
        "restore the file from version control", _problems(*_KID),
    ),
    Rule(
        "strength", "high", "keys are P-256, Ed25519, or RSA of 2048 to 8192 bits", f"RFC 7518 §3.3, {_NIST} §5.6.1",
        "replace the key: verifier keys rotate", _problems(*_STRENGTH),
    ),
    Rule(
        "unusable-file", "high", "every file of public/ can be used", "RFC 7517 §4",
        "restore or remove the file", _problems(),
    ),
    Rule(
        "overlap", "high", "a key verifies until its last token has expired by every clock", f"{_NIST} §5.3.4",
        "set exp to the successor's nbf + lifetime + 2 x leeway, as verifier keys rotate computes it", _overlap,
    ),
    Rule(
        "successor", "high", "a key that ends has a successor", f"{_NIST} §5.3.4",
        "verifier keys rotate", _no_successor,
    ),
    Rule(
        "private-mode", "high", "private files are 0600 in a 0700 folder", "OWASP Key Management Cheat Sheet, Storage",
        "chmod 700 keys/private; chmod 600 keys/private/*.pem", _private_mode,
    ),
    Rule(
        "history-chain", "high", "the history is unbroken", "NIST SP 800-92 §2.3.2",
        "find the change in version control", _chain,
    ),
    Rule(
        "history-agrees", "high", "the history tells what the files hold", "NIST SP 800-92 §2.3.2",
        "find the change that no command made in version control", _history_agrees,
    ),
    Rule(
        "overlapping-currents", "medium", "a key with a successor has an end", f"{_NIST} §5.3.4",
        "revoke the key, or set its exp", _endless_retiring,
    ),
    Rule(
        "pending-window", "medium", f"a key is published {duration(PROPAGATION_S)} or more before it signs",
        "this project: every replica must have it", "verifier keys confirm URL... before it signs, or cancel it",
        _pending_window,
    ),
    Rule(
        "one-pending", "medium", "at most one key is pending", "this project: one change at a time",
        "verifier keys cancel", _pending_twice,
    ),
    Rule(
        "cryptoperiod", "medium", "a key signs no longer than its cryptoperiod", f"{_NIST} §5.3.6",
        "verifier keys rotate", _cryptoperiod,
    ),
    Rule(
        "private-kept", "medium", "a private half does not outlive its key", f"{_NIST} §8.3.4",
        "verifier keys prune", _private_kept,
    ),
    Rule(
        "weak-secret", "medium", "secrets have 16 characters or more and no outer white space", "RFC 6749 §10.10",
        "verifier applications rotate-secret with a random one", _weak,
    ),
    Rule(
        "lifetime", "medium", f"tokens live {MAX_LIFETIME_S} s at most", "RFC 6819 §5.1.5.3",
        "lower VERIFIER_MAX_LIFETIME", _lifetime,
    ),
)  # fmt: skip
