"""Telemetry of one stage: spans of sampled records, and metrics that are counted here and read by the exporter.

Without an OTLP endpoint nothing is imported, nothing runs, and each call returns at once.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from schemas.errors import MissingExtraError
from schemas.ids import uuid7
from schemas.settings import TelemetrySettings
from streams import semconv
from streams.effects import Counters
from streams.metrics import AGE_BOUNDS, PROCESS_BOUNDS, Buckets
from streams.records import InRecord
from streams.topics import Names
from streams.traceparent import root_traceparent, sampled_parent

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import AttributeValue

    from streams.metering import Metering
    from streams.tracing import Hop, Tracing

_EXPORT_TIMEOUT_S: Final = 5  # of one export; also what a shutdown waits for a collector that is away


@dataclass(frozen=True, slots=True)
class Exporters:
    """Where spans and metrics go."""

    spans: "SpanExporter"
    metrics: "MetricExporter"


class Telemetry:
    """What a loop and its stage tell operators.

    Args:
        settings: Endpoint, sampling, interval.
        stage: Name of the stage.
        names: Physical names; for the consumer group.
        instance: Tells processes of a stage apart; drawn if None.
        exporters: Other ones than those that the settings ask for.

    Raises:
        MissingExtraError: An endpoint is set and the OTLP exporter is not installed.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        stage: str,
        *,
        names: Names | None = None,
        instance: str | None = None,
        exporters: Exporters | None = None,
    ) -> None:
        self.process_seconds = Buckets(PROCESS_BOUNDS)
        self.age_seconds = Buckets(AGE_BOUNDS)
        self._ratio = settings.sample_ratio
        self._tracing: Tracing | None = None
        self._metering: Metering | None = None
        if exporters is None and settings.otlp_endpoint:
            exporters = _otlp(settings.otlp_endpoint)
        if exporters is not None:
            self._open(settings, stage, (names or Names()).group(stage), instance or uuid7(), exporters)

    @property
    def enabled(self) -> bool:
        """Whether anything is exported."""
        return self._tracing is not None

    def hop(self, record: InRecord) -> "Hop | None":
        """The span of handling a record; None when its trace is not kept. Use it as a context manager."""
        if self._tracing is None:
            return None
        parent = sampled_parent(record.headers)
        return None if parent is None else self._tracing.process(parent, record)

    def call(self, name: str, attributes: "Mapping[str, AttributeValue] | None" = None) -> "Hop | None":
        """The span of a call to somebody outside, within the hop that is current; None when there is none."""
        return None if self._tracing is None else self._tracing.call(name, attributes or {})

    def root_traceparent(self, request_id: str) -> str:
        """``traceparent`` for a request that brings none; sampled by the settings' ratio, if anything is exported.

        Derived from the request id, so that a redelivery gets the same.
        """
        return root_traceparent(request_id, self._ratio if self._tracing is not None else 0.0)

    def record_batch(self, records: int, duration_s: float) -> None:
        """``records`` were handled in ``duration_s`` seconds together; each counts as its share."""
        if records:
            self.process_seconds.record(duration_s / records, records)

    def record_age(self, age_s: float) -> None:
        """What follows from a record became visible ``age_s`` seconds after the record was written."""
        self.age_seconds.record(max(0.0, age_s))

    def observe(self, read: Callable[[], Counters]) -> None:
        """Export a loop's counters; ``read`` is called from another thread, once a field and interval."""
        if self._metering is not None:
            self._metering.counters(read)

    def gauge(self, name: str, read: Callable[[], float], *, unit: str = "1", description: str = "") -> None:
        """Export a value that goes up and down (lag, age of the oldest, in flight); ``read`` as in ``observe``."""
        if self._metering is not None:
            self._metering.gauge(name, read, unit, description)

    def counter(
        self,
        name: str,
        read: Callable[[], float | Mapping[Any, int]],
        unit: str,
        description: str,
        *,
        by: str = "",
    ) -> None:
        """Export a value that only rises; ``read`` as in ``observe``.

        Args:
            name: Of the metric.
            read: The value; or, with ``by``, values by that attribute, of which there is always the same set.
            unit: In UCUM.
            description: For people.
            by: Attribute that tells values apart.
        """
        if self._metering is not None:
            self._metering.counter(name, read, unit, description, by)

    async def shutdown(self) -> None:
        """Export what is left, within some seconds; nothing is exported after it."""
        for part in (self._tracing, self._metering):
            if part is not None:
                await asyncio.to_thread(part.shutdown)
        self._tracing, self._metering = None, None

    def _open(self, settings: TelemetrySettings, stage: str, group: str, instance: str, exporters: Exporters) -> None:
        # The SDK is half a second of imports: only for those who export.
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above

        from streams.metering import Metering, Shape  # noqa: PLC0415 - as above
        from streams.tracing import Tracing  # noqa: PLC0415 - as above

        resource = Resource.create({semconv.SERVICE_NAME: f"tierflow-{stage}", semconv.SERVICE_INSTANCE_ID: instance})
        attributes = {
            semconv.MESSAGING_SYSTEM: semconv.KAFKA,
            semconv.MESSAGING_OPERATION_NAME: semconv.PROCESS,
            semconv.MESSAGING_CONSUMER_GROUP_NAME: group,
            semconv.TIERFLOW_STAGE: stage,
        }
        shapes = (
            Shape(semconv.MESSAGING_PROCESS_DURATION, "s", "Time to handle a record.", self.process_seconds),
            Shape(semconv.TIERFLOW_AGE, "s", "From the writing of a record to what follows from it.", self.age_seconds),
        )
        self._tracing = Tracing(exporters.spans, resource, group)
        self._metering = Metering(exporters.metrics, resource, settings.metrics_interval, attributes, shapes)


def _otlp(endpoint: str) -> Exporters:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - an optional package
            OTLPMetricExporter,
        )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an optional package
            OTLPSpanExporter,
        )
    except ImportError as error:
        raise MissingExtraError("opentelemetry-exporter-otlp-proto-http", "otlp") from error
    base = endpoint.rstrip("/")
    return Exporters(
        OTLPSpanExporter(f"{base}/v1/traces", timeout=_EXPORT_TIMEOUT_S),
        OTLPMetricExporter(f"{base}/v1/metrics", timeout=_EXPORT_TIMEOUT_S),
    )
