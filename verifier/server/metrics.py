"""Metrics for Prometheus on a port of their own. Loaded only where that port is set."""

import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from verifier.core.keyring import KeyState
from verifier.errors import ConfigError
from verifier.server.applications_file import ApplicationsFile
from verifier.storage.key_directory import KeyDirectory

BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Figures = Mapping[str, tuple[str, Callable[[], float]]]


class Metrics(Collector):
    """What is counted, and what is read from the keys and applications when Prometheus asks.

    No label is of a sender's choosing: outcomes and reasons are fixed phrases, ids are those that are loaded.
    """

    def __init__(self, keys: KeyDirectory, applications: ApplicationsFile, leeway_s: int, figures: Figures) -> None:
        self.keys, self.applications = keys, applications
        self.leeway_s = leeway_s
        self.figures = figures  # name -> what it is and how to get it; *_total only grows
        self.key_used: dict[str, float] = {}
        self.secret_used: dict[tuple[str, bytes], float] = {}
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "verifier_requests", "Answers by outcome and reason.", ["outcome", "reason"], registry=self.registry
        )
        self._children: dict[tuple[str, str], Counter] = {}
        self._seconds = Histogram(
            "verifier_request_seconds",
            "From the head of a request to the end of its answer, the sender's pauses included.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Answer Prometheus from a thread; what ends that. Raises ConfigError when the port cannot be had."""
        try:
            server, thread = prometheus_client.start_http_server(port, host, self.registry)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host} port {port} for metrics ({exc.strerror})",
                hint="choose another with --metrics-port",
            ) from exc

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close

    def count(self, outcome: str, reason: str, seconds: float) -> None:
        """Take note of an answer."""
        child = self._children.get((outcome, reason))
        if child is None:
            child = self._children[outcome, reason] = self._requests.labels(outcome, reason)
        child.inc()
        self._seconds.observe(seconds)

    def record_use(self, application_id: str, slot: int, kid: str) -> None:
        """Take note of a secret that matched, and of the key of a token that was accepted."""
        now = time.time()
        application = self.applications.applications.by_id.get(application_id)
        # By its digest: when the older secret is removed, the other one moves to its slot.
        for secret in application.secrets[slot - 1 : slot] if application and slot else ():
            self.secret_used[application_id, secret.digest] = now
        if kid:
            self.key_used[kid] = now

    def collect(self) -> Iterator[Metric]:
        """What is so now."""
        now, keyring = time.time(), self.keys.keyring
        last = GaugeMetricFamily(
            "verifier_key_last_used_timestamp_seconds", "When it last verified a token; 0: never here.", labels=["kid"]
        )
        left = GaugeMetricFamily(
            "verifier_key_seconds_to_exp", "Of keys that verify now or will; +Inf: no end.", labels=["kid"]
        )
        states = Tally(keyring.state(key, int(now)) for key in keyring.keys.values())
        for key in keyring.keys.values():
            last.add_metric([key.kid], self.key_used.get(key.kid, 0))
            if not key.has_ended(int(now)):
                left.add_metric([key.kid], math.inf if key.exp is None else key.exp - now)
        yield last
        yield left
        keys = GaugeMetricFamily("verifier_keys", "By the state of their life.", labels=["state"])
        for state in KeyState:
            keys.add_metric([state], states[state])
        yield keys
        usable = len(keyring.verification_keys(int(now), self.leeway_s))
        yield GaugeMetricFamily("verifier_keys_usable", "Keys that verify now.", usable)
        yield InfoMetricFamily("verifier_key_set", "The same on every replica.", {"digest": keyring.digest})
        secrets = GaugeMetricFamily(
            "verifier_secret_last_used_timestamp_seconds",
            "When it last matched; 0: never here.",
            labels=["application", "slot"],
        )
        for application in self.applications.applications.by_id.values():
            for slot, secret in enumerate(application.secrets, start=1):
                record_use = self.secret_used.get((application.id, secret.digest), 0)
                secrets.add_metric([application.id, str(slot)], record_use)
        yield secrets
        problems = GaugeMetricFamily(
            "verifier_problems", "Files or entries that cannot be record_use.", labels=["what"]
        )
        problems.add_metric(["keys"], len(self.keys.problems))
        problems.add_metric(["applications"], len(self.applications.problems))
        yield problems
        for name, (text, value) in self.figures.items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, text, value())
