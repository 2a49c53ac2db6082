"""Reads counters, gauges and buckets at an interval and exports them. Imported only when metrics are exported."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from streams import semconv
from streams.effects import Counters
from streams.metrics import Buckets

_SCOPE: Final = "tierflow"

COUNTERS: Final = (
    ("taken", semconv.MESSAGING_CLIENT_CONSUMED_MESSAGES, "{message}", "Records taken."),
    ("emitted", semconv.MESSAGING_CLIENT_SENT_MESSAGES, "{message}", "Records made visible."),
    ("committed", semconv.TIERFLOW_COMMITTED, "{message}", "Records whose offsets are committed."),
    ("dead_lettered", semconv.TIERFLOW_DEAD_LETTERS, "{message}", "Records given up."),
    ("commits", semconv.TIERFLOW_COMMITS, "{commit}", "Commits."),
    ("resets", semconv.TIERFLOW_RESETS, "{reset}", "Times that work was thrown away and done again."),
    ("handler_errors", semconv.TIERFLOW_HANDLER_ERRORS, "{error}", "Records that a handler failed on."),
)
"""Fields of ``streams.effects.Counters``, and what each is called outside."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A histogram to export.

    Attributes:
        name: Of the metric.
        unit: In UCUM.
        description: For people.
        buckets: What was counted.
    """

    name: str
    unit: str
    description: str
    buckets: Buckets


class _WithHistograms(MetricExporter):
    """Adds our histograms to each export of the SDK's metrics."""

    def __init__(self, inner: MetricExporter, shapes: Sequence[Shape], attributes: Mapping[str, str]) -> None:
        super().__init__(preferred_temporality=inner._preferred_temporality)  # noqa: SLF001 - the exporter's own wish
        self._inner = inner
        self._shapes = shapes
        self._attributes = dict(attributes)
        self._started = time.time_ns()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export, with the histograms among our scope's metrics."""
        histograms = [self._metric(shape) for shape in self._shapes if sum(shape.buckets.counts)]
        resources = list(metrics_data.resource_metrics)
        if histograms and resources:
            first = resources[0]
            # Into the scope that is there: the OTLP encoder keeps only one of two with the same name.
            scopes = [scope for scope in first.scope_metrics if scope.scope.name != _SCOPE]
            ours = [metric for scope in first.scope_metrics if scope.scope.name == _SCOPE for metric in scope.metrics]
            scopes.append(ScopeMetrics(InstrumentationScope(_SCOPE), [*ours, *histograms], schema_url=""))
            resources[0] = ResourceMetrics(first.resource, scopes, first.schema_url)
        return self._inner.export(MetricsData(resources), timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Hand on."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Hand on."""
        self._inner.shutdown(timeout_millis, **kwargs)

    def _metric(self, shape: Shape) -> Metric:
        buckets = shape.buckets
        counts = tuple(buckets.counts)
        point = HistogramDataPoint(
            attributes=self._attributes,
            start_time_unix_nano=self._started,
            time_unix_nano=time.time_ns(),
            count=sum(counts),
            sum=buckets.total,
            bucket_counts=counts,
            explicit_bounds=buckets.bounds,
            min=buckets.lowest,
            max=buckets.highest,
        )
        data = Histogram([point], AggregationTemporality.CUMULATIVE)
        return Metric(shape.name, shape.description, shape.unit, data)


class Metering:
    """Exports at an interval, from a thread.

    Args:
        exporter: Where to.
        resource: Who speaks.
        interval: Between exports.
        attributes: On every point.
        shapes: Histograms.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        resource: Resource,
        interval: timedelta,
        attributes: Mapping[str, str],
        shapes: Sequence[Shape],
    ) -> None:
        self._attributes = dict(attributes)
        reader = PeriodicExportingMetricReader(
            _WithHistograms(exporter, shapes, attributes), export_interval_millis=interval.total_seconds() * 1000
        )
        self._provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(_SCOPE)

    def counters(self, read: Callable[[], Counters]) -> None:
        """Observe a loop's counters."""
        for field, name, unit, description in COUNTERS:
            self._meter.create_observable_counter(name, [self._callback(read, field)], unit, description)

    def gauge(self, name: str, read: Callable[[], float], unit: str, description: str) -> None:
        """Observe a value that goes up and down."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(read(), self._attributes)]

        self._meter.create_observable_gauge(name, [observe], unit, description)

    def counter(
        self, name: str, read: Callable[[], float | Mapping[Any, int]], unit: str, description: str, by: str
    ) -> None:
        """Observe a value that only rises, or several that an attribute tells apart."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = read()
            if not isinstance(found, Mapping):
                return [Observation(found, self._attributes)]
            return [Observation(value, {**self._attributes, by: str(key)}) for key, value in found.items()]

        self._meter.create_observable_counter(name, [observe], unit, description)

    def shutdown(self) -> None:
        """Export once more, and stop. Blocks for as long as the exporter may."""
        self._provider.shutdown()

    def _callback(self, read: Callable[[], Counters], field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(getattr(read(), field), self._attributes)]

        return observe
