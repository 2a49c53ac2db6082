"""Schema registries: the port, and the ids in use. The client over HTTP is in ``schemas.schema_registry``.

The registry is never needed for what is known: ids of our own schemas are asked for once at start, ids of others when a
record first shows them. A record whose id can't be asked for now waits (``SchemaRegistryError`` is retryable); a record
whose id the registry does not have can't be read by anybody (``UndecodableError``).
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Final, Protocol, Self

from schemas.contract import Schema, schema_from
from schemas.errors import SchemaRegistryError, UndecodableError

_FORGET_UNKNOWN: Final = timedelta(seconds=60)
"""How long an answer "no such id" stands: a registry may learn the id a moment after the first record shows it."""

_MOST_UNKNOWN: Final = 1024
"""Bound on how many of them are remembered: random bytes make a new one each time."""


class SchemaRegistry(Protocol):
    """What is needed of a schema registry. Each method may block and raises ``SchemaRegistryError`` when it is away."""

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject; registers it where that is allowed.

        Raises:
            ConfigurationError: The registry refuses the schema, or has none and may not be given one.
        """
        ...

    def schema(self, schema_id: int) -> str | None:
        """The text of an Avro schema; None when the registry has no such id.

        Raises:
            ValueError: There is such an id, but not of an Avro schema that stands by itself.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class SchemaIds:
    """Ids and what they stand for, cached for ever: a registry never gives an id to another schema.

    The registry is asked on a thread of its own, so that a stage's event loop goes on while it is slow.

    Args:
        registry: The registry; closed with this object.
        patience: How long ``schema_of`` waits for an id that it sees for the first time. 0 in stages, which offer the
            record again after a pause; a command that reads a few records waits.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        registry: SchemaRegistry,
        *,
        patience: timedelta = timedelta(0),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._patience = patience.total_seconds()
        self._monotonic = monotonic
        self._ours: dict[str, int] = {}
        self._schemas: dict[int, Schema] = {}
        self._hopeless: dict[int, tuple[str, float]] = {}
        self._asked: dict[int, Future[str | None]] = {}
        self._thread = ThreadPoolExecutor(1, "schema-registry")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def learn(self, schema: Schema) -> int:
        """Ask for the id of a schema of ours, under the subject of its full name. Blocks; meant for the start.

        Raises:
            SchemaRegistryError: The registry is away.
            ConfigurationError: It refuses the schema.
        """
        schema_id = self._registry.register(schema.full_name, schema.text)
        self._ours[schema.full_name] = schema_id
        self._schemas[schema_id] = schema
        return schema_id

    def id_of(self, schema: Schema) -> int:
        """The id of a schema of ours; asks the registry only when ``learn`` was not called for it."""
        found = self._ours.get(schema.full_name)
        return self.learn(schema) if found is None else found

    def schema_of(self, schema_id: int) -> Schema:
        """The schema behind an id.

        Raises:
            SchemaRegistryError: Not known yet; ask again after a pause.
            UndecodableError: The registry has no such id, or something that can't be read.
        """
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        hopeless = self._hopeless.get(schema_id)
        if hopeless is not None:
            if self._monotonic() < hopeless[1]:
                raise UndecodableError(hopeless[0])
            del self._hopeless[schema_id]
        return self._take(schema_id)

    def close(self) -> None:
        """Stop asking and release connections."""
        self._thread.shutdown(wait=True, cancel_futures=True)  # waits for the registry's own timeout at most
        self._registry.close()

    def _take(self, schema_id: int) -> Schema:
        asked = self._asked.get(schema_id)
        if asked is None:
            asked = self._asked[schema_id] = self._thread.submit(self._registry.schema, schema_id)
        try:
            text = asked.result(timeout=self._patience)
        except TimeoutError as error:
            raise SchemaRegistryError(f"the schema registry is being asked for schema id {schema_id}") from error
        except SchemaRegistryError:
            del self._asked[schema_id]
            raise
        except ValueError as error:
            del self._asked[schema_id]
            raise self._give_up(schema_id, str(error)) from error
        del self._asked[schema_id]
        if text is None:
            raise self._give_up(schema_id, f"the schema registry has no schema id {schema_id}")
        try:
            found = self._schemas[schema_id] = schema_from(text)
        except ValueError as error:
            raise self._give_up(schema_id, f"schema id {schema_id}: {error}") from error
        return found

    def _give_up(self, schema_id: int, reason: str) -> UndecodableError:
        why = f"byte 1: {reason}"
        if len(self._hopeless) >= _MOST_UNKNOWN:
            self._hopeless.clear()
        self._hopeless[schema_id] = (why, self._monotonic() + _FORGET_UNKNOWN.total_seconds())
        return UndecodableError(why)
