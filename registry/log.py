"""What is done to the registry log: publish, roll back.

The log is ``schemas.ports.OrderedLog``; the broker's adapter moves bytes and knows nothing of what they mean.
"""

from dataclasses import replace

from registry.envelope import Envelope
from registry.errors import CatalogueError, RegistryConflictError
from registry.history import History, fold, record_key
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.ids import uuid7
from schemas.ports import OrderedLog


async def read_history(log: OrderedLog, onto: History | None = None) -> History:
    """What the log holds now.

    Raises:
        DeliveryError: The broker does not answer.
    """
    start = onto or History()
    return fold(await log.read(start.position), start)


async def publish(
    log: OrderedLog,
    catalogue: Catalogue,
    *,
    now_ms: int,
    author: str,
    approver: str = "",
    expected: int | None = None,
) -> Snapshot:
    """Publish a catalogue under the next number; nobody else can have that number then.

    Args:
        log: Where.
        catalogue: What is to rule.
        now_ms: Unix milliseconds.
        author: Who does it.
        approver: Who approved it.
        expected: Number that the caller believes to be the current one (0: there is none yet); None takes any.

    Raises:
        RegistryConflictError: Somebody published first; what they published rules, and this does not.
        CatalogueError: The catalogue has errors.
        DeliveryError: The broker does not answer. Whether it was published is open: look, then publish again.
    """
    history = _as_expected(await read_history(log), expected)
    number = history.number + 1
    made = Snapshot.from_catalogue(catalogue, number=number, author=author, approver=approver, published_ms=now_ms)
    return await _append(log, history, made.envelope())


async def publish_if_changed(log: OrderedLog, catalogue: Catalogue, *, now_ms: int, author: str) -> Snapshot:
    """Publish a catalogue unless it rules already; for starts, which may happen several at a time.

    Raises:
        RegistryConflictError: Somebody published another catalogue at the same moment.
        CatalogueError: The catalogue has errors.
        DeliveryError: The broker does not answer.
    """
    wanted = Snapshot.from_catalogue(catalogue).hash
    history = await read_history(log)
    if ruling := _ruling(history, wanted):
        return ruling
    try:
        return await publish(log, catalogue, now_ms=now_ms, author=author, expected=history.number)
    except RegistryConflictError:
        if ruling := _ruling(await read_history(log), wanted):
            return ruling
        raise


async def rollback(
    log: OrderedLog,
    to_number: int,
    *,
    now_ms: int,
    author: str,
    approver: str = "",
    expected: int | None = None,
) -> Snapshot:
    """Publish the content of an earlier snapshot under the next number; it has the same hash as then.

    Raises:
        CatalogueError: There is no such snapshot, or it rules already.
        RegistryConflictError: Somebody published first.
        DeliveryError: The broker does not answer.
    """
    history = _as_expected(await read_history(log), expected)
    old = history.find(to_number)
    if old is None:
        there = f"there are 1 to {history.number}" if history.number else "nothing was published yet"
        raise CatalogueError(f"no snapshot {to_number} to go back to: {there}")
    old.understood()  # one that can't be used must not come to rule again
    if _ruling(history, old.envelope.hash):
        raise CatalogueError(f"the content of snapshot {to_number} rules already, as number {history.number}")
    again = replace(old.envelope, number=history.number + 1, author=author, approver=approver, published_ms=now_ms)
    return await _append(log, history, again)


def _ruling(history: History, content_hash: str) -> Snapshot | None:
    """The snapshot in force, if it has this content."""
    last = history.last
    return last.understood() if last and last.envelope.hash == content_hash else None


def _as_expected(history: History, expected: int | None) -> History:
    if expected is not None and history.number != expected:
        by = f", by {history.last.envelope.author or 'somebody'}" if history.last else ""
        raise RegistryConflictError(f"the registry is at {history.number}{by}, not at {expected}: look at it again")
    return history


async def _append(log: OrderedLog, history: History, envelope: Envelope) -> Snapshot:
    key = record_key(envelope, uuid7())
    position = await log.append(key, envelope.to_bytes())
    after = fold(await log.read(history.position, through=position), history)
    winner = after.find(envelope.number)
    if winner is None or winner.key != key:
        by = (winner.envelope.author if winner else "") or "somebody"
        raise RegistryConflictError(f"{by} published snapshot {envelope.number} first: look at it, then publish again")
    return winner.understood()
