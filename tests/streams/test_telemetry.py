"""Telemetry: who is traced, what spans and metrics say, and that it costs nothing when it is off."""

import asyncio
import gzip
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import Histogram, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.trace import SpanKind, StatusCode

from schemas.errors import DeadlineExceededError, MissingExtraError
from schemas.headers import Name
from schemas.settings import TelemetrySettings
from streams import semconv
from streams.effects import Counters
from streams.metrics import AGE_BOUNDS, PROCESS_BOUNDS, Buckets
from streams.records import InRecord
from streams.telemetry import Exporters, Telemetry
from streams.topics import Names
from streams.traceparent import Parent, replaced, root_traceparent, sampled_parent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
HOUR = timedelta(hours=1)


def record(traceparent: str | bytes | None = SAMPLED, offset: int = 7) -> InRecord:
    raw = traceparent.encode() if isinstance(traceparent, str) else traceparent
    headers = (("x", b"1"),) if raw is None else (("x", b"1"), (Name.TRACEPARENT.value, raw), ("y", b"2"))
    return InRecord("pre.requests", 3, offset, 0, 0, b"k", b"v", headers)


class TestTraceparent:
    def test_the_parent_of_a_sampled_record(self) -> None:
        assert sampled_parent(record().headers) == Parent(int(TRACE, 16), 0xB7AD6B7169203331, 1)
        assert sampled_parent(record(SAMPLED[:-1] + "3").headers) == Parent(int(TRACE, 16), 0xB7AD6B7169203331, 3)
        assert sampled_parent(record("cc" + SAMPLED[2:] + "-what-comes-later").headers) is not None

    @pytest.mark.parametrize(
        "raw",
        [
            None,
            b"",
            SAMPLED[:-1] + "0",
            SAMPLED[:-1],
            SAMPLED.upper(),
            SAMPLED.replace("-", "_"),
            "ff" + SAMPLED[2:],
            f"00-{'0' * 32}-b7ad6b7169203331-01",
            f"00-{TRACE}-{'0' * 16}-01",
            b"\xff" * 54 + b"1",
            SAMPLED + "1",
        ],
    )
    def test_all_others_have_none(self, raw: str | bytes | None) -> None:
        assert sampled_parent(record(raw).headers) is None

    @given(st.binary(max_size=70))
    def test_any_bytes_are_a_parent_or_none(self, raw: bytes) -> None:
        assert sampled_parent(record(raw).headers) is None

    def test_roots_are_derived_and_well_formed(self) -> None:
        assert root_traceparent("r1", 1.0) == root_traceparent("r1", 1.0)
        assert root_traceparent("r1", 1.0)[:53] == root_traceparent("r1", 0.0)[:53]
        assert root_traceparent("r1", 1.0)[:36] != root_traceparent("r2", 1.0)[:36]
        assert sampled_parent(record(root_traceparent("r1", 1.0)).headers) is not None
        assert sampled_parent(record(root_traceparent("r1", 0.0)).headers) is None

    @pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
    def test_the_ratio_is_kept_and_more_never_means_fewer(self, ratio: float) -> None:
        kept = {n for n in range(4000) if root_traceparent(f"r{n}", ratio).endswith("1")}
        assert abs(len(kept) / 4000 - ratio) < 0.03
        assert kept <= {n for n in range(4000) if root_traceparent(f"r{n}", min(1.0, ratio * 2)).endswith("1")}

    def test_replacing_keeps_the_other_headers_in_order(self) -> None:
        assert replaced(record().headers, "new") == [("x", b"1"), ("y", b"2"), ("traceparent", b"new")]


class TestBuckets:
    @given(
        st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 5)), min_size=1, max_size=30),
        st.sampled_from([PROCESS_BOUNDS, AGE_BOUNDS]),
    )
    @hypothesis_settings(deadline=None)
    def test_every_value_is_counted_in_its_bucket(
        self, values: list[tuple[float, int]], bounds: tuple[float, ...]
    ) -> None:
        buckets = Buckets(bounds)
        for value, times in values:
            buckets.record(value, times)
        flat = [value for value, times in values for _ in range(times)]
        for index, count in enumerate(buckets.counts):
            low = bounds[index - 1] if index else float("-inf")
            high = bounds[index] if index < len(bounds) else float("inf")
            assert count == sum(low < value <= high for value in flat)
        assert buckets.total == pytest.approx(sum(flat))
        assert (buckets.lowest, buckets.highest) == (min(flat), max(flat))


class Captured(MetricExporter):
    """Keeps the last export."""

    def __init__(self) -> None:
        super().__init__()
        self.data: MetricsData | None = None

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        self.data = metrics_data
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        pass

    def metrics(self) -> dict[str, Any]:
        assert self.data is not None
        return {
            metric.name: metric
            for resource in self.data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class Station:
    """A stage with exporters in memory."""

    def __init__(self, stage: str = "classifier", ratio: float = 1.0) -> None:
        self.spans, self.metrics = InMemorySpanExporter(), Captured()
        settings = TelemetrySettings(sample_ratio=ratio, metrics_interval=HOUR)
        self.telemetry = Telemetry(
            settings, stage, names=Names("pre."), instance="i1", exporters=Exporters(self.spans, self.metrics)
        )

    async def finished(self) -> dict[str, ReadableSpan]:
        await self.telemetry.shutdown()
        return {span.name: span for span in self.spans.get_finished_spans()}


class TestSpans:
    async def test_a_hop_says_what_was_handled_and_by_whom(self) -> None:
        station = Station()
        hop = station.telemetry.hop(record())
        assert hop is not None
        with hop:
            hop.note("tierflow.tier", "fast")
        span = (await station.finished())["process pre.requests"]
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), 0xB7AD6B7169203331)
        assert span.parent.is_remote
        assert dict(span.attributes or {}) == {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "pre.tierflow.classifier",
            "messaging.destination.name": "pre.requests",
            "messaging.destination.partition.id": "3",
            "messaging.kafka.offset": 7,
            "tierflow.tier": "fast",
        }
        assert span.resource.attributes["service.name"] == "tierflow-classifier"
        assert span.resource.attributes["service.instance.id"] == "i1"
        assert span.status.status_code is StatusCode.UNSET

    async def test_records_that_are_not_sampled_have_no_hop_and_no_call(self) -> None:
        station = Station()
        assert station.telemetry.hop(record(None)) is None
        assert station.telemetry.hop(record(SAMPLED[:-1] + "0")) is None
        assert station.telemetry.call("chat fast") is None
        assert await station.finished() == {}

    async def test_a_trace_goes_over_stages_and_calls(self) -> None:
        first, second = Station("classifier"), Station("worker-fast")
        root = first.telemetry.root_traceparent("r1")
        hop = first.telemetry.hop(record(root))
        assert hop is not None
        with hop:
            out = record()._replace(headers=tuple(hop.child_headers(record(root).headers)), topic="tier.fast")
        following = second.telemetry.hop(out)
        assert following is not None
        with following:
            call = second.telemetry.call("chat fast@1", {"gen_ai.operation.name": "chat"})
            assert call is not None
            with call:
                sent = call.traceparent
        one = (await first.finished())["process pre.requests"]
        spans = await second.finished()
        two, three = spans["process tier.fast"], spans["chat fast@1"]
        assert two.parent is not None
        assert three.parent is not None
        assert one.context is not None
        assert two.context is not None
        assert three.context is not None
        assert f"{one.context.trace_id:032x}" == root[3:35]
        assert two.parent.span_id == one.context.span_id
        assert three.parent.span_id == two.context.span_id
        assert three.kind is SpanKind.CLIENT
        assert sent == f"00-{root[3:35]}-{three.context.span_id:016x}-01"

    @pytest.mark.parametrize(
        ("error", "said"), [(DeadlineExceededError("secret"), "deadline.exceeded"), (KeyError("secret"), "KeyError")]
    )
    async def test_an_error_is_named_and_its_text_is_not_kept(self, error: Exception, said: str) -> None:
        station = Station()
        hop = station.telemetry.hop(record())
        assert hop is not None
        with pytest.raises(type(error)), hop:
            raise error
        span = (await station.finished())["process pre.requests"]
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == said
        assert "secret" not in span.to_json()

    async def test_records_handled_at_once_keep_their_traces_apart(self) -> None:
        station = Station()

        async def handle(number: int) -> tuple[str, str]:
            hop = station.telemetry.hop(record(station.telemetry.root_traceparent(f"r{number}"), number))
            assert hop is not None
            with hop:
                await asyncio.sleep(0.001 * (number % 3))
                call = station.telemetry.call("chat")
                assert call is not None
                with call:
                    await asyncio.sleep(0.001)
                return hop.traceparent[:35], call.traceparent[:35]

        found = await asyncio.gather(*(handle(number) for number in range(20)))
        assert all(hop == call for hop, call in found)
        assert len(set(found)) == 20
        await station.telemetry.shutdown()


class TestMetrics:
    async def test_counters_gauges_and_histograms_are_exported(self) -> None:
        station, counters = Station("guardrail"), Counters()
        telemetry = station.telemetry
        telemetry.observe(lambda: counters)
        telemetry.gauge("tierflow.lag", lambda: 12.5, unit="{message}", description="Lag.")
        telemetry.counter("tierflow.ended", lambda: 3, "{request}", "Ended.")
        telemetry.counter("tierflow.wrong", lambda: {"a": 1, "b": 2}, "1", "Wrong.", by="kind")
        counters.taken, counters.emitted, counters.resets = 10, 9, 1
        telemetry.record_batch(8, 0.4)
        telemetry.record_batch(2, 4.0)
        telemetry.record_batch(0, 1.0)
        telemetry.record_age(3.0)
        telemetry.record_age(-1.0)  # clocks of two machines
        await telemetry.shutdown()
        found = station.metrics.metrics()
        assert found["messaging.client.consumed.messages"].data.data_points[0].value == 10
        assert found["messaging.client.sent.messages"].data.data_points[0].value == 9
        assert found["tierflow.resets"].data.data_points[0].value == 1
        assert found["tierflow.lag"].data.data_points[0].value == 12.5
        assert found["tierflow.ended"].data.data_points[0].value == 3
        points = found["tierflow.wrong"].data.data_points
        assert {point.attributes["kind"]: point.value for point in points} == {"a": 1, "b": 2}
        duration = found["messaging.process.duration"]
        assert isinstance(duration.data, Histogram)
        (point,) = duration.data.data_points
        assert (duration.unit, point.count) == ("s", 10)
        assert point.sum == pytest.approx(4.4)
        assert point.explicit_bounds == PROCESS_BOUNDS
        assert point.bucket_counts[bisect_left(PROCESS_BOUNDS, 0.05)] == 8
        assert point.bucket_counts[bisect_left(PROCESS_BOUNDS, 2.0)] == 2
        (age,) = found["tierflow.record.age"].data.data_points
        assert (age.count, age.min, age.max) == (2, 0.0, 3.0)
        for metric in found.values():
            for point in metric.data.data_points:
                assert point.attributes["messaging.consumer.group.name"] == "pre.tierflow.guardrail"
                assert point.attributes["tierflow.stage"] == "guardrail"

    async def test_what_was_never_counted_is_not_exported(self) -> None:
        station, counters = Station(), Counters()
        station.telemetry.observe(lambda: counters)
        await station.telemetry.shutdown()
        assert not {"messaging.process.duration", "tierflow.record.age"} & station.metrics.metrics().keys()


class Collector(ThreadingHTTPServer):
    """An OTLP receiver on loopback."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        self.server.got.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestOtlp:
    async def test_spans_and_metrics_reach_a_collector(self, collector: Collector) -> None:
        settings = TelemetrySettings(otlp_endpoint=collector.url + "/", metrics_interval=HOUR)
        telemetry, counters = Telemetry(settings, "audit"), Counters(taken=5)
        telemetry.observe(lambda: counters)
        telemetry.record_batch(5, 0.01)
        hop = telemetry.hop(record())
        assert hop is not None
        with hop:
            pass
        await telemetry.shutdown()
        traces = [ExportTraceServiceRequest.FromString(body) for path, body in collector.got if path == "/v1/traces"]
        (span,) = [s for t in traces for r in t.resource_spans for scope in r.scope_spans for s in scope.spans]
        assert (span.name, span.trace_id.hex()) == ("process pre.requests", TRACE)
        bodies = [ExportMetricsServiceRequest.FromString(body) for path, body in collector.got if path == "/v1/metrics"]
        found = {
            metric.name: metric
            for body in bodies
            for resource in body.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert found["messaging.client.consumed.messages"].sum.data_points[0].as_int == 5
        assert found["messaging.process.duration"].histogram.data_points[0].count == 5
        attributes = {a.key: a.value.string_value for a in traces[0].resource_spans[0].resource.attributes}
        assert attributes["service.name"] == "tierflow-audit"
        assert telemetry.hop(record()) is None  # after the end

    async def test_a_collector_that_is_away_stops_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        telemetry = Telemetry(TelemetrySettings(otlp_endpoint="http://127.0.0.1:9", metrics_interval=HOUR), "audit")
        hop = telemetry.hop(record())
        assert hop is not None
        with hop:
            pass
        async with asyncio.timeout(60):
            await telemetry.shutdown()
        assert "127.0.0.1" in caplog.text  # the SDK says it, and goes on

    def test_the_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
        with pytest.raises(MissingExtraError, match=r"tierflow\[otlp\]"):
            Telemetry(TelemetrySettings(otlp_endpoint="http://127.0.0.1:4318"), "audit")


class TestOff:
    async def test_everything_can_be_called(self) -> None:
        telemetry = Telemetry(TelemetrySettings(sample_ratio=1.0), "audit")
        assert not telemetry.enabled
        assert telemetry.hop(record()) is None
        assert telemetry.call("chat") is None
        assert telemetry.root_traceparent("r").endswith("-00")
        telemetry.observe(Counters)
        telemetry.gauge("tierflow.lag", lambda: 1.0)
        telemetry.record_batch(1, 0.1)
        telemetry.record_age(1.0)
        await telemetry.shutdown()

    def test_the_sdk_is_not_even_imported(self) -> None:
        program = (
            "import sys; from streams.telemetry import Telemetry; from schemas.settings import TelemetrySettings; "
            "Telemetry(TelemetrySettings(), 'audit'); "
            "print([name for name in sys.modules if name.startswith('opentelemetry')])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "[]"


def test_names_are_those_of_the_conventions() -> None:
    known = {
        value
        for module in (messaging_attributes, messaging_metrics)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {value for name, value in vars(semconv).items() if name.startswith("MESSAGING_")}
    assert ours <= known
