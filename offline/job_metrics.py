"""What a run of a command leaves for Prometheus: a file for node exporter's textfile collector, or a push to a Pushgateway.

Law: `METRICS` is all there is, and docs/metrics.md says the same of each. A run that ends with an error leaves what was there before it, so
that the times of the last run and of the last success grow old. No label names a customer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, pushadd_to_gateway, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = "segment-streamer-offline"
PUSH_S_MAX = 30


class Definition(NamedTuple):
    """One metric, a gauge: its name, its labels and its meaning."""

    name: str
    labels: tuple[str, ...]
    meaning: str


LAST_RUN, LAST_SUCCESS, DURATION = (
    "offline_last_run_timestamp_seconds",
    "offline_last_success_timestamp_seconds",
    "offline_duration_seconds",
)
METRICS = (
    Definition(LAST_RUN, ("command",), "When the command last came to its end, whatever it found, seconds since 1970."),
    Definition(LAST_SUCCESS, ("command",), "When the command last did what it is for, seconds since 1970."),
    Definition(DURATION, ("command",), "How long the command took."),
    Definition("offline_reseed_version", (), "Number of the model version that the re-seed made, or would have made."),
    Definition("offline_reseed_refused", (), "1 where the gate refused the re-seed's version, else 0."),
    Definition("offline_parity_customers", ("result",), "Customers compared, by result."),
    Definition("offline_parity_differences", ("feature",), "Customers whose feature, or other part of the profile, differs."),
    Definition("offline_drift_psi", ("feature",), "Population stability index of a feature since the version's fit."),
    Definition("offline_drift_quantisation_error", (), "Mean squared distance of the customers from their nearest centroid."),
    Definition("offline_drift_quantisation_error_ratio", (), "The same over what it was at the version's fit."),
    Definition("offline_drift_limits_passed", (), "Limits of `offline.drift` that are passed."),
    Definition("offline_drift_segment_share", ("segment",), "Share of a segment among the eligible customers, by the nearest centroid."),
    Definition("offline_drift_segment_share_shift", ("segment",), "The same less what it was at the version's fit."),
)
DEFINED = {metric.name: metric for metric in METRICS}


@dataclass(slots=True, eq=False)
class JobMetrics(Collector):
    """The figures of one run."""

    command: str
    samples: dict[str, list[tuple[tuple[str, ...], float]]] = field(default_factory=dict)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Take in a figure; `labels` are values in the order of the metric's labels."""
        if len(labels) != len(DEFINED[name].labels):
            message = f"{name} has the labels {DEFINED[name].labels}"
            raise ValueError(message)
        self.samples.setdefault(name, []).append((labels, value))

    def ended(self, began_s: float, now_s: float, *, success: bool) -> None:
        """Take in that the run is over."""
        self.set(LAST_RUN, now_s, self.command)
        self.set(DURATION, now_s - began_s, self.command)
        if success:
            self.set(LAST_SUCCESS, now_s, self.command)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what was taken in, in the order of `METRICS`."""
        for metric in METRICS:
            if metric.name in self.samples:
                family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in self.samples[metric.name]:
                    family.add_metric(labels, value)
                yield family

    def write(self, file: Path) -> None:
        """Write a file for the textfile collector, whole or not at all; the time of the last success stays where this was none.

        Raises:
            Misconfigured: it can't be written.

        """
        try:
            if LAST_SUCCESS not in self.samples and file.exists():
                for family in text_string_to_metric_families(file.read_text(encoding="utf-8")):
                    for sample in family.samples:
                        if sample.name == LAST_SUCCESS and sample.labels.get("command") == self.command:
                            self.set(LAST_SUCCESS, sample.value, self.command)
            write_to_textfile(str(file), self._registry())
        except (OSError, ValueError) as error:
            message = f"--metrics-file {file}: it can't be written: {error}"
            raise Misconfigured(message) from error

    def push(self, gateway: str) -> None:
        """Push to a Pushgateway, in a group of the command's own; what it had of other names stays, the last success among them.

        Raises:
            Unavailable: it does not answer, or refuses.

        """
        try:
            pushadd_to_gateway(gateway, f"{JOB}-{self.command}", self._registry(), timeout=PUSH_S_MAX)
        except (OSError, ValueError) as error:
            message = f"the Pushgateway at {gateway} did not take the figures: {error}"
            raise Unavailable(message) from error

    def leave(self, file: Path | None, gateway: str | None) -> None:
        """Leave the figures wherever they were asked for."""
        if file is not None:
            self.write(file)
        if gateway is not None:
            self.push(gateway)

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry
