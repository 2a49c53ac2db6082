"""Runs an agent with one of its safeguards switched off: the oracle must see it, or it sees nothing.

python -m tests.faults.sabotage fencing --log-level info run worker --tier fast
"""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from agents.audit.stage import AuditStage
from schemas.enums import EventType
from streams._aiokafka import Membership, Wire
from streams._delivery import Batch, Delivery
from streams.receiver import FIRST, Admission, Receiver
from streams.records import InRecord
from tierflow.cli import main


class Safeguard(StrEnum):
    """What is switched off."""

    FENCING = "fencing"
    """Offsets are committed as nobody in particular, which the broker takes from anybody."""
    GATHERING = "gathering"
    """A transaction is committed whatever became of its sends."""
    RECEIVER = "receiver"
    """Every record of an id is the first."""
    EVENTS = "events"
    """Calls are left out of every other story."""


def _fencing() -> None:
    fenced = Wire.txn_offset_commit

    async def unfenced(self: Wire, node: int, transactional_id: str, producer: Any, member: Membership, offsets: Any):
        anybody = Membership(member.group, -1, "", None)
        return await fenced(self, node, transactional_id, producer, anybody, offsets)

    Wire.txn_offset_commit = unfenced  # type: ignore[method-assign]


def _gathering() -> None:
    def settled(self: Delivery, batch: Batch, written: Any) -> bool:
        return True

    Delivery._settled = settled  # type: ignore[method-assign]


def _receiver() -> None:
    async def admit(self: Receiver, entries: Sequence[tuple[str, str]]) -> list[Admission]:
        return [FIRST for _ in entries]

    Receiver.admit = admit  # type: ignore[method-assign]


def _events() -> None:
    whole = AuditStage._derive

    def derive(self: AuditStage, origin: Any, record: InRecord, found: dict[str, bytes]) -> Any:
        made = whole(self, origin, record, found)
        if int(origin.request_id[-1]) % 2:
            return made
        return lambda now_ms: [event for event in made(now_ms) if event.event_type is not EventType.MODEL_ATTEMPTED]

    AuditStage._derive = derive  # type: ignore[method-assign]


SWITCHES: Mapping[Safeguard, Any] = {
    Safeguard.FENCING: _fencing,
    Safeguard.GATHERING: _gathering,
    Safeguard.RECEIVER: _receiver,
    Safeguard.EVENTS: _events,
}

if __name__ == "__main__":
    SWITCHES[Safeguard(sys.argv[1])]()
    sys.argv[1:2] = []
    sys.exit(main())
