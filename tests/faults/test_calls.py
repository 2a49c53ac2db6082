"""What providers and the state store do to calls: every call is made for a reason, counted, and told."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.enums import Status
from streams.brokers import EmbeddedState
from streams.faults import Action, Fault, Point
from streams.retry import RETRY_PREFIX
from tests.faults.conftest import OpenWorld
from tests.faults.oracle import Evidence
from tests.faults.provider import Provider, Trick
from tests.faults.world import World, open_world

pytestmark = pytest.mark.timeout(240)


def statuses(found: Evidence) -> dict[str, Status]:
    return {result.request_id: result.status for _, result in found.sorted.results}


def calls_of(found: Evidence, ids: list[str]) -> Counter[str]:
    counted = Counter(call.who for call in found.calls)
    return Counter({request_id: counted[request_id] for request_id in ids})


async def test_every_trick_of_a_provider_is_told_as_it_was(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        ids = {trick: world.send(2, trick=trick) for trick in Trick if trick is not Trick.OUTAGE}
        world.send(6, slow_ms=2_000)
        found = await world.verdict()
        ended = statuses(found)
        assert {ended[each] for group in ids.values() for each in group} == {Status.ANSWERED}
        calls = {trick: set(calls_of(found, group).values()) for trick, group in ids.items()}
        assert calls[Trick.NONE] == calls[Trick.DRIP] == {1}
        # An answer that came too late is called for again, under the same key, and both calls are told.
        assert calls[Trick.LATE] == calls[Trick.BUSY] == calls[Trick.DOUBT] == {2}
        assert calls[Trick.BURST] == {3}


async def test_an_outage_is_waited_out_in_retry_topics_or_ends_as_failed(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        down = world.send(3, trick=Trick.DOWN)
        dead = world.send(3, trick=Trick.OUTAGE)
        well = world.send(6)
        found = await world.verdict()
        ended = statuses(found)
        assert {ended[each] for each in down + well} == {Status.ANSWERED}
        assert {ended[each] for each in dead} == {Status.FAILED}
        # Three tries of each of two models, then one round a delay of the last model.
        assert set(calls_of(found, dead).values()) == {3 + 3 + 3 + 3}
        assert set(calls_of(found, well).values()) == {1}
        waits = [record for record in found.records if RETRY_PREFIX in record.topic]
        handed_out = {
            dict(record.headers)["tierflow.causation-id"]: record
            for record in found.records
            if world.platform.names.logical(record.topic) == "tier.fast"
        }
        assert len(waits) == 3 + 2 * 3
        for record in waits:
            headers = dict(record.headers)
            assert int(headers["tierflow.due"]) <= handed_out[headers["ce_id"]].timestamp_ms, "never before it is due"


async def test_what_is_tried_again_survives_a_kill_of_who_holds_it(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        plan = [Fault(Point.AFTER_SENDS, Action.KILL, passes=2, marker=world.marker("guardrail"))]
        await world.start_flow({"guardrail": plan})
        down = world.send(6, trick=Trick.DOWN)
        await world.struck("guardrail")
        await world.gone("guardrail")
        await world.start("guardrail")
        found = await world.verdict()
        assert {statuses(found)[each] for each in down} == {Status.ANSWERED}


async def test_requests_expire_where_they_are(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        for kind in ("audit", "guardrail"):
            await world.start(kind)
        unread = world.send(1, deadline=timedelta(milliseconds=1))  # over when it is read
        await world.start("classifier")
        # In the tier's topic, as nobody works there; or refused, where the classifier has noticed that.
        unserved = world.send(4, deadline=timedelta(seconds=2))
        await asyncio.sleep(2.5)
        await world.start("worker")
        mid_call = world.send(4, slow_ms=3_500, deadline=timedelta(seconds=3))
        waiting = world.send(3, trick=Trick.OUTAGE, deadline=timedelta(seconds=5))  # no further try fits
        found = await world.verdict()
        ended = statuses(found)
        assert {ended[each] for each in unread + mid_call} == {Status.EXPIRED}
        assert {ended[each] for each in unserved} <= {Status.EXPIRED, Status.REFUSED, Status.FAILED}
        assert {ended[each] for each in waiting} <= {Status.EXPIRED, Status.FAILED}
        assert set(calls_of(found, unserved + unread).values()) == {0}


async def lost_worker(world: World, point: Point) -> Evidence:
    """A worker dies with calls under way; another one finds what it left."""
    plan = [Fault(point, Action.KILL, seconds=0.2, marker=world.marker("worker"))]
    await world.start_flow({"worker": plan})
    world.send(6, slow_ms=800)
    await world.struck("worker")
    await world.gone("worker")
    world.crashes += 1
    await world.start("worker", name="other")
    return await world.verdict()


async def test_a_call_that_a_dead_worker_made_is_unknown_and_made_again(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        found = await lost_worker(world, Point.DURING_CALL)
        assert set(statuses(found).values()) == {Status.ANSWERED}
        unknown = [event for _, event in found.sorted.events if event.status == "unknown"]
        assert unknown
        assert sum(calls_of(found, [each.request_id for each in world.sent]).values()) == 6 + len(unknown)


async def test_or_it_fails_where_nobody_wants_to_pay_twice(on_kafka: OpenWorld) -> None:
    async with on_kafka(worker={"unknown_policy": "fail"}) as world:
        found = await lost_worker(world, Point.DURING_CALL)
        assert max(call.number for call in found.calls) == 1, "no call was made twice"
        failed = [event for _, event in found.sorted.events if event.status == "unknown"]
        # The step of a call with an unknown end has failed; the plan goes on with its next model.
        others = {call.who for call in found.calls if call.model == "large"}
        assert {event.request_id for event in failed} == others
        assert others


async def test_a_state_store_that_goes_away_is_waited_for(
    kafka_broker: str, provider: Provider, tmp_path: Path
) -> None:
    """It stops while the worker stands at a lookup, at a claim, in a call and before the journal, and comes back."""
    points = {Point.AFTER_FETCH: 2, Point.AFTER_CLAIM: 6, Point.DURING_CALL: 10, Point.AFTER_CALL: 14}
    async with EmbeddedState() as state, open_world(kafka_broker, state.url, provider, tmp_path) as world:
        await world.start_flow(
            {
                "worker": [
                    Fault(point, Action.FREEZE, passes=passes, seconds=0.1, marker=world.marker(point))
                    for point, passes in points.items()
                ]
            }
        )
        waiting = {world.marker(point) for point in points}
        while waiting:
            world.send(8, slow_ms=400)
            async with asyncio.timeout(45):
                while not any(marker.exists() for marker in waiting):
                    await asyncio.sleep(0.05)
            waiting = {marker for marker in waiting if not marker.exists()}
            state.pause()
            world.agent("worker").resume()
            await asyncio.sleep(2)
            state.resume()
            world.crashes += 1  # leases may die while nobody can renew them
        await world.verdict()


async def test_a_state_store_that_forgets_everything_costs_calls_and_no_result(
    kafka_broker: str, provider: Provider, tmp_path: Path
) -> None:
    async with EmbeddedState() as state, open_world(kafka_broker, state.url, provider, tmp_path) as world:
        plan = [Fault(Point.AFTER_JOURNAL, Action.KILL, passes=4, marker=world.marker("worker"))]
        await world.start_flow({"worker": plan})
        world.send(12, slow_ms=400)
        await world.struck("worker")
        await world.gone("worker")
        await state.kill()
        await state.start()  # it keeps nothing
        world.crashes, world.lost_state = 1, True
        await world.start("worker")
        found = await world.verdict()
        extra = sum(calls_of(found, [each.request_id for each in world.sent]).values()) - 12
        assert 1 <= extra <= 16, "what was journaled and not committed is called for again, and no more than that"
