"""Metrics in the format of Prometheus. Loaded only where a port for them is set."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from verifier._version import __version__
from verifier.core.keyring import KeyState
from verifier.server.reload import Reloader

BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Figures = Mapping[str, tuple[str, Callable[[], float]]]


class Metrics(Collector):
    """What is counted, and what is computed from the keys and applications at a scrape.

    No label contains what a sender chose: outcomes and reasons are fixed, ids are those that are loaded.
    """

    def __init__(self, files: Reloader, leeway_s: int, figures: Figures) -> None:
        self.files = files
        self.leeway_s = leeway_s
        self.figures = figures  # by name: help and value; *_total are counters
        self.key_used: dict[str, float] = {}
        self.secret_used: dict[tuple[str, bytes], float] = {}
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "verifier_requests", "Responses by outcome and reason.", ["outcome", "reason"], registry=self.registry
        )
        self._children: dict[tuple[str, str], Counter] = {}
        self._seconds = Histogram(
            "verifier_request_duration_seconds",
            "Time from the request headers to the end of the response, including pauses of the client.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def count(self, outcome: str, reason: str, seconds: float) -> None:
        """Count a response."""
        child = self._children.get((outcome, reason))
        if child is None:
            child = self._children[outcome, reason] = self._requests.labels(outcome, reason)
        child.inc()
        self._seconds.observe(seconds)

    def record_use(self, application_id: str, slot: int, kid: str) -> None:
        """Record that a secret matched, and that a key verified an accepted token."""
        now = time.time()
        application = self.files.applications.applications.by_id.get(application_id)
        # By its digest, because the second secret moves to the first slot when the older one is removed.
        for secret in application.secrets[slot - 1 : slot] if application and slot else ():
            self.secret_used[application_id, secret.digest] = now
        if kid:
            self.key_used[kid] = now

    def collect(self) -> Iterator[Metric]:
        """Yield what holds now."""
        yield InfoMetricFamily("verifier_build", "Version of the package.", {"version": __version__})
        yield from self._key_metrics(time.time())
        yield self._secret_metric()
        yield from self._file_metrics()
        for name, (text, value) in self.figures.items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, text, value())

    def _key_metrics(self, now: float) -> Iterator[Metric]:
        keyring = self.files.keys.keyring
        used = GaugeMetricFamily(
            "verifier_key_last_used_timestamp_seconds",
            "Unix time at which the key last verified an accepted token; 0: never in this process.",
            labels=["kid"],
        )
        expiry = GaugeMetricFamily(
            "verifier_key_expiry_timestamp_seconds", "Unix time at which the key expires; +Inf: never.", labels=["kid"]
        )
        for key in keyring.keys.values():
            used.add_metric([key.kid], self.key_used.get(key.kid, 0))
            if not key.has_ended(now):
                expiry.add_metric([key.kid], float("inf") if key.exp is None else key.exp)
        yield used
        yield expiry
        current = keyring.current(now)
        since = GaugeMetricFamily(
            "verifier_current_key_since_timestamp_seconds", "Unix time at which the current key became current."
        )
        if current:
            since.add_metric([], current.nbf)
        yield since
        tally = Tally(keyring.states(now).values())
        keys = GaugeMetricFamily("verifier_keys", "Number of keys by lifecycle state.", labels=["state"])
        for state in KeyState:
            keys.add_metric([state], tally[state])
        yield keys
        usable = len(keyring.verification_keys(now, self.leeway_s))
        yield GaugeMetricFamily("verifier_keys_usable", "Number of keys that verify now.", usable)
        yield InfoMetricFamily(
            "verifier_key_set", "Digest of the key set, equal on every replica.", {"digest": keyring.digest}
        )
        yield GaugeMetricFamily(
            "verifier_revocations_undone",
            "Number of revoked keys whose file no longer contains the revocation; they stay rejected until a restart.",
            len(self.files.keys.undone_revocations),
        )

    def _secret_metric(self) -> Metric:
        used = GaugeMetricFamily(
            "verifier_secret_last_used_timestamp_seconds",
            "Unix time at which the secret last matched; 0: never in this process.",
            labels=["application", "slot"],
        )
        for application in self.files.applications.applications.by_id.values():
            for slot, secret in enumerate(application.secrets, start=1):
                used.add_metric([application.id, str(slot)], self.secret_used.get((application.id, secret.digest), 0))
        return used

    def _file_metrics(self) -> Iterator[Metric]:
        files = self.files
        invalid = GaugeMetricFamily(
            "verifier_invalid_files", "Number of files and entries that cannot be used.", labels=["kind"]
        )
        invalid.add_metric(["keys"], len(files.keys.problems))
        invalid.add_metric(["applications"], len(files.applications.problems))
        yield invalid
        hung = GaugeMetricFamily(
            "verifier_hung_reads", "Reads in progress that have taken longer than 10 s.", labels=["kind"]
        )
        for kind, overdue in files.overdue.items():
            hung.add_metric([kind], overdue)
        yield hung
        yield GaugeMetricFamily(
            "verifier_unwatchable_files",
            "Number of files mounted so that changes never arrive.",
            len(files.bind_mounted_files),
        )
        yield GaugeMetricFamily(
            "verifier_config_last_reload_success_timestamp_seconds",
            "Unix time of the last completed read of keys and applications.",
            files.reloaded_at,
        )
        yield GaugeMetricFamily(
            "verifier_config_reload_duration_seconds", "Duration of the last completed read.", files.reload_s
        )
