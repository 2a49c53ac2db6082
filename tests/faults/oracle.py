"""The judge of every fault case: what must be true of the topics, whatever happened. Pure, and itself tested.

The promise, taken apart: each accepted id has exactly one result; what was never a request is a dead letter; each story
is complete and agrees with its result; each key's first deliveries are in order; nothing is open; and the calls that
the provider counted are those that the records tell of.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from msgspec.structs import asdict

from agents.audit.core import CLASSIFICATION
from agents.audit.story import gaps, tell
from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.edges import Result
from schemas.enums import EventType, Outcome
from schemas.errors import FailureClass, UndecodableError
from schemas.flow import Attempt, Completion, ProvenanceEvent
from schemas.headers import AVRO, Name
from schemas.ids import coordinates
from streams.records import TP, InRecord
from streams.topics import COMPLETIONS, DEAD_LETTERS, PROVENANCE, RESULTS, Names
from tests.faults.provider import Call
from tests.faults.reading import Ends

CODEC = Codec(format=AVRO)


class Resources(NamedTuple):
    """What a process holds: open descriptors, sockets among them, threads, resident MiB."""

    descriptors: int
    sockets: int
    threads: int
    mebibytes: int


MARGIN: Final = Resources(descriptors=24, sockets=20, threads=2, mebibytes=40)
"""What a process may hold more than one at rest, after everything has settled: sixteen connections to the provider stay
open, one a call at a time, and four to brokers; memory that was used once is not given back at once."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent."""

    request_id: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class Sorted:
    """Records by what they are."""

    results: list[tuple[InRecord, Result]] = field(default_factory=list)
    result_ids: Counter[str] = field(default_factory=Counter)
    result_places: Counter[str] = field(default_factory=Counter)
    completions: list[tuple[InRecord, Completion]] = field(default_factory=list)
    events: list[tuple[InRecord, ProvenanceEvent]] = field(default_factory=list)
    ended_ids: set[str] = field(default_factory=set)
    dead_places: Counter[str] = field(default_factory=Counter)
    numbers: dict[tuple[bytes, bytes], list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, records: Iterable[InRecord], names: Names) -> None:
        """Decode records and put them where they belong."""
        for record in records:
            topic, headers = names.logical(record.topic), dict(record.headers)
            content_type = headers.get(Name.CONTENT_TYPE.value, AVRO.encode()).decode()
            if Name.SEQUENCE.value in headers and not topic.startswith(DEAD_LETTERS):
                source = headers[Name.CE_SOURCE.value], headers[Name.EPOCH.value]
                self.numbers[source].append(int(headers[Name.SEQUENCE.value]))
            if topic == RESULTS:
                result = CODEC.decode(Result, record.value or b"", content_type)
                self.results.append((record, result))
                self.result_ids[result.request_id] += 1
                self.result_places[result.source] += 1
            elif topic == COMPLETIONS:
                with suppress(UndecodableError):  # put there by a case: what follows from it is judged, not it
                    self.completions.append((record, CODEC.decode(Completion, record.value or b"")))
            elif topic == PROVENANCE:
                event = CODEC.decode(ProvenanceEvent, record.value or b"")
                self.events.append((record, event))
                if event.event_type is EventType.REQUEST_ENDED:
                    self.ended_ids.add(event.request_id)
            elif topic.startswith(DEAD_LETTERS):
                self.dead_places[_original_place(headers)] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a case left behind.

    Attributes:
        names: To tell topics apart.
        mode: What the broker promises.
        sent: Requests, in the order of sending.
        poison: Coordinates of records that are no requests, or none that can be accepted as they are.
        records: Everything committed, read afterwards.
        tailed: What a reader saw while faults happened.
        ends: Ends of all partitions; empty where the broker knows no transactions.
        calls: What the provider counted.
        crashes: How often a worker, or a classifier that asks a model, was hurt with calls in flight.
        in_flight: Calls in flight in one of them at most.
        lost_state: Whether the state store forgot: then records give a lower bound of calls only.
        went_back: Committed offsets that were seen to decrease.
        resources: What each running agent holds, beside one of its kind at rest; empty where nobody looked.
    """

    names: Names
    mode: DeliveryMode
    sent: Sequence[Sent]
    poison: frozenset[str]
    records: Sequence[InRecord]
    tailed: Sequence[InRecord]
    ends: Mapping[TP, Ends]
    calls: Sequence[Call]
    crashes: int = 0
    in_flight: int = 0
    lost_state: bool = False
    went_back: Sequence[str] = ()
    resources: Mapping[str, tuple[Resources, Resources]] = field(default_factory=dict)

    @property
    def sorted(self) -> Sorted:
        """The records by what they are."""
        found = Sorted()
        found.add(self.records, self.names)
        return found

    @property
    def exact(self) -> bool:
        """Whether repeats are forbidden."""
        return self.mode is DeliveryMode.EXACTLY_ONCE


def judge(evidence: Evidence) -> list[str]:
    """Everything that is wrong; empty when the promise was kept."""
    seen = evidence.sorted
    return [
        *_results(evidence, seen),
        *_dead_letters(evidence, seen),
        *_stories(evidence, seen),
        *_order(evidence, seen),
        *_numbers(evidence, seen),
        *_log(evidence),
        *_calls(evidence, seen),
        *_resources(evidence),
    ]


def _results(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    accepted = {sent.request_id for sent in evidence.sent}
    for request_id in sorted(accepted - seen.result_ids.keys()):
        yield f"lost: {request_id} has no result"
    for _, result in seen.results:
        if result.request_id not in accepted and result.source not in evidence.poison:
            yield f"invented: {result.request_id} was never sent and has a result"
    if evidence.exact:
        for request_id, count in sorted(seen.result_ids.items()):
            if count > 1:
                yield f"duplicated: {request_id} has {count} results"
    else:
        yield from _conflicts(seen)
    for _, result in seen.results:
        if result.delivery_mode is not evidence.mode:
            yield f"{result.request_id} claims to be delivered {result.delivery_mode}"
    other = {
        f"records of {evidence.names.logical(record.topic)} were delivered {delivered}"
        for record in evidence.records
        if (delivered := _header(record, Name.DELIVERY_MODE)) not in {"", evidence.mode}
    }
    yield from sorted(other)


def _conflicts(seen: Sorted) -> Iterator[str]:
    """At least once: a repeat must be the same thing again under the same id."""
    said: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for record, result in seen.results:
        said[result.request_id].add((_header(record, Name.CE_ID), result.status, result.output_sha256))
    for request_id, found in sorted(said.items()):
        if len(found) > 1:
            yield f"contradiction: {request_id} ended as {sorted(found)}"


def _dead_letters(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    for place in sorted(evidence.poison):
        if seen.dead_places[place] + seen.result_places[place] != 1:
            dead, told = seen.dead_places[place], seen.result_places[place]
            yield f"poison at {place} became {dead} dead letters and {told} results, in place of one"
    for place, count in sorted(seen.dead_places.items()):
        if count > 1 and evidence.exact:
            yield f"duplicated: {place} was dead-lettered {count} times"


def _stories(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, event in seen.events:
        rows[event.request_id].append(asdict(event))
    results = {result.request_id: result for _, result in reversed(seen.results)}
    for request_id in sorted({sent.request_id for sent in evidence.sent}):
        story = tell(request_id, rows.get(request_id, []))
        yield from (f"story of {request_id}: {gap}" for gap in gaps(story))
        if evidence.exact and story.repeats:
            yield f"story of {request_id}: {story.repeats} events came twice"
        result = results.get(request_id)
        if result is None or len(story.ended) != 1:
            continue
        told, end = story.ended[0], {"status": result.status, "attempt": result.attempts, "plan_id": result.plan_id}
        end |= {"model": result.model, "tier": result.tier, "content_sha256": result.output_sha256}
        end |= {"billed_micros": result.cost_micros, "error_code": result.error_code}
        for name, value in end.items():
            if told[name] != value:
                yield f"{request_id}: the result says {name} {value}, provenance {told[name]}"
        answered = [row for row in story.events if row["event_type"] == EventType.MODEL_ATTEMPTED]
        if result.model and not any(row["model"] == result.model and row["status"] == Outcome.OK for row in answered):
            yield f"{request_id}: {result.model} answered, and the story has no such call"


def _order(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    """First deliveries of a key leave a tier in the order in which they were sent."""
    place = {sent.request_id: number for number, sent in reversed(list(enumerate(evidence.sent)))}
    by_key: dict[bytes | None, list[str]] = defaultdict(list)
    known: set[str] = set()
    for record, completion in seen.completions:
        if completion.step_index == 0 and completion.request_id in place and completion.request_id not in known:
            known.add(completion.request_id)
            by_key[record.key].append(completion.request_id)
    for key, ids in sorted(by_key.items(), key=str):
        numbers = [place[request_id] for request_id in ids]
        if numbers != sorted(numbers):
            yield f"order of key {key!r} broken: {ids}"


def _numbers(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    """Sequence numbers prove completeness: within a source and epoch there is no gap and no repeat."""
    if not evidence.exact:
        return
    for (source, epoch), numbers in sorted(seen.numbers.items()):
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
            twice = sorted(number for number, count in Counter(numbers).items() if count > 1)
            yield f"sequence of {source.decode()} epoch {epoch.decode()}: {missing} missing, {twice} twice"


def _log(evidence: Evidence) -> Iterator[str]:
    for tp, end in sorted(evidence.ends.items()):
        if end.stable < end.high:
            yield f"{tp.topic}/{tp.partition}: a transaction is open from {end.stable} on (end {end.high})"
    yield from evidence.went_back
    if evidence.exact:
        after = {record[:3] for record in evidence.records}
        for place in sorted({record[:3] for record in evidence.tailed} - after):
            yield f"{'/'.join(map(str, place))} was seen by a reader and is gone"


def _resources(evidence: Evidence) -> Iterator[str]:
    """Nothing may grow with what happened."""
    for label, (now, rest) in sorted(evidence.resources.items()):
        for name, held, usual, margin in zip(Resources._fields, now, rest, MARGIN, strict=True):
            if held > usual + margin:
                yield f"{label} holds {held} {name}; one at rest {usual}, and {margin} more are granted"


def within_margin(now: Resources, rest: Resources) -> bool:
    """Whether a process holds no more than it may."""
    return all(held <= usual + margin for held, usual, margin in zip(now, rest, MARGIN, strict=True))


def _calls(evidence: Evidence, seen: Sorted) -> Iterator[str]:
    """Calls that were made, as the provider counted them, against attempts in the records."""
    made = Counter(call.who for call in evidence.calls)
    known: Counter[str] = Counter()
    perhaps: Counter[str] = Counter()
    unknown = 0
    first = {_header(record, Name.CE_ID): completion for record, completion in reversed(seen.completions)}
    for completion in first.values():
        for raw in completion.attempts:
            attempt = CODEC.decode(Attempt, raw)
            if attempt.outcome is Outcome.UNKNOWN:
                unknown += 1
            # Cut off before the request was out, or after: the caller can't know.
            if attempt.outcome is Outcome.UNKNOWN or attempt.failure in {FailureClass.CONNECTION, FailureClass.TIMEOUT}:
                perhaps[completion.request_id] += 1
            elif attempt.outcome is not Outcome.CACHED:
                known[completion.request_id] += 1
    for event in classifying(seen):
        unknown += event.status == Outcome.UNKNOWN
        unsure = event.status == Outcome.UNKNOWN or event.error_code in {FailureClass.CONNECTION, FailureClass.TIMEOUT}
        (perhaps if unsure else known)[event.request_id] += 1
    for request_id in sorted({sent.request_id for sent in evidence.sent}):
        least, most = known[request_id], known[request_id] + perhaps[request_id]
        if made[request_id] < least or (made[request_id] > most and not evidence.lost_state):
            yield f"{request_id}: {made[request_id]} calls were made, the records tell of {least} to {most}"
    bound = evidence.crashes * evidence.in_flight
    if unknown > bound:
        yield f"{unknown} calls of unknown end, {evidence.crashes} crashes explain {bound}"


def classifying(seen: Sorted) -> list[ProvenanceEvent]:
    """Calls that the classifier made to find the class, each once."""
    found = {event.event_id: event for _, event in seen.events if event.step_id == CLASSIFICATION}
    return list(found.values())


def _original_place(headers: Mapping[str, bytes]) -> str:
    topic, partition, offset = (
        headers[name.value].decode() for name in (Name.CONNECT_TOPIC, Name.CONNECT_PARTITION, Name.CONNECT_OFFSET)
    )
    return coordinates(topic, int(partition), int(offset))


def _header(record: InRecord, name: Name) -> str:
    return next((raw.decode() for key, raw in record.headers if key == name.value), "")
