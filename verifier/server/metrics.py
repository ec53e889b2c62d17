"""Metrics in the format of Prometheus. Loaded only where a port for them is set."""

import math
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from verifier._version import __version__
from verifier.core.keyring import KeyState
from verifier.server.log import AccessLogEntry
from verifier.server.reload import Reloader

BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics(Collector):
    """What is counted, and what is computed from the keys and applications at a scrape.

    No label contains what a sender chose: outcomes and reasons are fixed, ids are those that are loaded.
    """

    def __init__(self, files: Reloader, leeway_s: int) -> None:
        self.files = files
        self.leeway_s = leeway_s
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

    def count(self, request: AccessLogEntry) -> None:
        """Count a response, and record that a secret matched and that a key verified an accepted token."""
        if request.get("path", "/profile") != "/profile":
            return
        outcome, reason, slot = request["outcome"], request.get("reason", ""), request.get("slot", 0)
        child = self._children.get((outcome, reason))
        if child is None:
            child = self._children[outcome, reason] = self._requests.labels(outcome, reason)
        child.inc()
        self._seconds.observe(request["duration_ms"] / 1000)
        now = time.time()
        application = self.files.applications.applications.by_id.get(request.get("application", ""))
        # By its digest, because the second secret moves to the first slot when the older one is removed.
        for secret in application.secrets[slot - 1 : slot] if application and slot else ():
            self.secret_used[request["application"], secret.digest] = now
        if outcome == "ok":
            self.key_used[request["kid"]] = now

    def collect(self) -> Iterator[Metric]:
        """Yield what holds now."""
        yield InfoMetricFamily("verifier_build", "Version of the package.", {"version": __version__})
        yield from self._key_metrics(time.time())
        yield self._secret_metric()
        yield from self._file_metrics()
        telemetry = self.files.telemetry
        yield GaugeMetricFamily("verifier_requests_in_flight", "Requests without a response yet.", telemetry.in_flight)
        yield CounterMetricFamily(
            "verifier_config_reload_failures_total",
            "Failed reloads of keys or applications.",
            telemetry.reload_failures,
        )
        yield CounterMetricFamily(
            "verifier_log_lines_dropped_total",
            "Log lines dropped because standard output blocked.",
            telemetry.output.dropped,
        )
        yield GaugeMetricFamily("verifier_clock_timestamp_seconds", "Unix time by the clock of this host.", time.time())

    def _key_metrics(self, now: float) -> Iterator[Metric]:
        keyring = self.files.keys.keyring
        yield _gauge(
            "verifier_key_last_used_timestamp_seconds",
            "Unix time at which the key last verified an accepted token; 0: never in this process.",
            "kid",
            {kid: self.key_used.get(kid, 0) for kid in keyring.keys},
        )
        live = [key for key in keyring.keys.values() if not key.has_ended(now)]
        yield _gauge(
            "verifier_key_expiry_timestamp_seconds",
            "Unix time at which the key expires; +Inf: never.",
            "kid",
            {key.kid: math.inf if key.exp is None else key.exp for key in live},
        )
        current = keyring.current(now)
        yield GaugeMetricFamily(
            "verifier_current_key_since_timestamp_seconds",
            "Unix time at which the current key became current.",
            current.nbf if current else None,
        )
        tally = Tally(keyring.states(now).values())
        yield _gauge(
            "verifier_keys", "Number of keys by lifecycle state.", "state", {state: tally[state] for state in KeyState}
        )
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
        yield _gauge(
            "verifier_invalid_files",
            "Number of files and entries that cannot be used.",
            "kind",
            {"keys": len(files.keys.problems), "applications": len(files.applications.problems)},
        )
        yield _gauge(
            "verifier_hung_reads",
            "Reads in progress that have taken longer than 10 s.",
            "kind",
            {reader.kind: reader.overdue for reader in files.readers},
        )
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
            "verifier_config_reload_duration_seconds",
            "Duration of the last completed read.",
            sum(reader.duration_s for reader in files.readers),
        )


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Build a gauge that has a value for each value of its label."""
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for of, value in values.items():
        gauge.add_metric([of], value)
    return gauge
