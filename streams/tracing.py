"""Spans of records whose trace is kept, on OpenTelemetry's SDK. Imported only when spans are exported."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from schemas.errors import TierflowError
from schemas.headers import Header
from streams import semconv
from streams.records import InRecord
from streams.traceparent import Parent, replaced

_SCOPE = "tierflow"


class Hop:
    """A span, as a context manager: current while entered, ended when left; an exception marks it as failed."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: object = None

    @property
    def traceparent(self) -> str:
        """What records and calls that follow from this span carry as ``traceparent``."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child_headers(self, headers: Sequence[Header]) -> list[Header]:
        """Headers of a record that follows from this span."""
        return replaced(headers, self.traceparent)

    def note(self, name: str, value: AttributeValue) -> None:
        """Set an attribute; no content of requests or answers."""
        self._span.set_attribute(name, value)

    def fail(self, code: str) -> None:
        """Mark as failed with a stable error code."""
        self._span.set_attribute(semconv.ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        """Make it the current span."""
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        """End it. Of an exception only the kind is kept: its text may hold content."""
        del kind, trace_back
        if error is not None:
            self.fail(error.code if isinstance(error, TierflowError) else type(error).__name__)
        otel_context.detach(self._token)  # type: ignore[arg-type]  # what attach gave
        self._span.end()


class Tracing:
    """Makes spans and exports them in the background.

    Args:
        exporter: Where they go.
        resource: Who speaks.
        group: Consumer group of the stage.
    """

    def __init__(self, exporter: SpanExporter, resource: Resource, group: str) -> None:
        # Every span that is made here belongs to a trace that is kept: the decision lies in the record's header.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SCOPE)
        self._fixed: Mapping[str, AttributeValue] = {
            semconv.MESSAGING_SYSTEM: semconv.KAFKA,
            semconv.MESSAGING_OPERATION_NAME: semconv.PROCESS,
            semconv.MESSAGING_OPERATION_TYPE: semconv.PROCESS,
            semconv.MESSAGING_CONSUMER_GROUP_NAME: group,
        }

    def process(self, parent: Parent, record: InRecord) -> Hop:
        """The span of handling one record; a child of what sent it."""
        sender = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(parent.flags))
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=trace.set_span_in_context(NonRecordingSpan(sender), Context()),
            kind=SpanKind.CONSUMER,
            attributes={
                **self._fixed,
                semconv.MESSAGING_DESTINATION_NAME: record.topic,
                semconv.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
                semconv.MESSAGING_KAFKA_OFFSET: record.offset,
            },
        )
        return Hop(span)

    def call(self, name: str, attributes: Mapping[str, AttributeValue]) -> Hop | None:
        """The span of a call to somebody outside; None unless the current span is one of ours that is kept."""
        if not trace.get_current_span().is_recording():
            return None
        return Hop(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))

    def shutdown(self) -> None:
        """Export what is left. Blocks for as long as the exporter may."""
        self._provider.shutdown()
