"""Who needs which rights: derived from the topic table, so that each agent runs as a principal of its own.

A stage that is not allowed to write to ``results`` can't end a request, whatever its code does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import CreateAclsRequest

from schemas.errors import ConfigurationError
from streams._codes import NOT_PERMITTED, Code, describe
from streams.connection import KafkaConnection
from streams.errors import BrokerUnavailableError, NotPermittedError
from streams.probe import PROBE_ID
from streams.retry import RETRY_PREFIX
from streams.topics import (
    ALERTS,
    COMPLETIONS,
    LEARNED,
    LEARNER,
    MONITOR,
    PROVENANCE,
    REGISTRY,
    RESULTS,
    STAGES,
    TIER_PREFIX,
    Names,
    Topic,
    dead_letter_topic,
)

PRODUCER: Final = "producer"
"""Role of who asks: writes to intake topics and feedback, reads results."""
OPERATOR: Final = "operator"
"""Role of who runs it: makes topics, publishes to the registry, reads and replays dead letters."""

_NO_AUTHORIZER = 54  # SECURITY_DISABLED


class Resource(IntEnum):
    """Kinds of resources, with their numbers in the protocol."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Pattern(IntEnum):
    """How a name is meant, with its number in the protocol."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What is allowed, with its number in the protocol."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


_ALLOW = 3
_FLAGS: Final = {
    Resource.TOPIC: "--topic",
    Resource.GROUP: "--group",
    Resource.CLUSTER: "--cluster",
    Resource.TRANSACTIONAL_ID: "--transactional-id",
}
_CLUSTER_NAME = "kafka-cluster"
_WORDS: Final = {operation: operation.name.title().replace("_", "") for operation in Operation}


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One right.

    Attributes:
        resource: Kind of resource.
        name: Physical name, or the beginning of names.
        operation: What is allowed on it.
        pattern: How the name is meant.
    """

    resource: Resource
    name: str
    operation: Operation
    pattern: Pattern = Pattern.LITERAL


def acls_for(role: str, topics: Sequence[Topic], names: Names) -> tuple[Acl, ...]:
    """What a principal of this role needs, and no more.

    Args:
        role: A stage (``classifier``, ``worker-<tier>``, ``guardrail``, ``audit``, ``archive``, ``monitor``,
            ``learner``),
            ``producer`` or ``operator``.
        topics: The topic table.
        names: Physical names.

    Raises:
        ConfigurationError: No such role.
    """
    logical = [topic.name for topic in topics]
    consumed = [topic.name for topic in topics if role in topic.consumers]
    read = [topic.name for topic in topics if role in topic.readers]
    if role == OPERATOR:
        reads, writes = set(logical), {*(t.name for t in topics if t.record == "request"), REGISTRY}
        return _sorted(
            *_topics(names, reads, Operation.READ, Operation.DESCRIBE, Operation.CREATE, Operation.DESCRIBE_CONFIGS),
            *_topics(names, writes, Operation.WRITE),
            *(
                Acl(Resource.GROUP, names.group(stage), operation)
                for stage in {stage for topic in topics for stage in topic.consumers}
                for operation in (Operation.READ, Operation.DESCRIBE)
            ),
        )
    if role == PRODUCER:
        writes = {topic.name for topic in topics if topic.record in {"request", "feedback"}}
        return _sorted(
            *_topics(names, writes, Operation.WRITE, Operation.DESCRIBE),
            *_topics(names, {RESULTS}, Operation.READ, Operation.DESCRIBE),
        )
    if not consumed and not read:
        known = sorted({*roles(topics), PRODUCER, OPERATOR})
        raise ConfigurationError(f"no role {role!r}: there are {', '.join(known)}")
    if not consumed:  # no group, and nothing that the flow acts on is written
        return _sorted(
            *_topics(names, _written_by(role, logical), Operation.WRITE, Operation.DESCRIBE),
            *_topics(names, {*read, REGISTRY}, Operation.READ, Operation.DESCRIBE),
            *_topics(names, read, Operation.DESCRIBE_CONFIGS),
            *_transactions(names.prefix + PROBE_ID, Pattern.LITERAL),
        )
    group = names.group(role)
    rights = [
        *_topics(names, {*consumed, *read, REGISTRY}, Operation.READ, Operation.DESCRIBE),
        *_topics(names, consumed, Operation.DESCRIBE_CONFIGS),  # a start checks what its topics keep
        *_topics(names, _written_by(role, logical), Operation.WRITE, Operation.DESCRIBE),
        Acl(Resource.GROUP, group, Operation.READ),
        Acl(Resource.GROUP, group, Operation.DESCRIBE),
    ]
    # Ids of a stage's producers begin with its group; the probe at the start takes one of its own.
    rights += _transactions(group, Pattern.PREFIXED)
    rights += _transactions(names.prefix + PROBE_ID, Pattern.LITERAL)
    return _sorted(*rights)


def _transactions(name: str, pattern: Pattern) -> list[Acl]:
    return [
        Acl(Resource.TRANSACTIONAL_ID, name, operation, pattern) for operation in (Operation.WRITE, Operation.DESCRIBE)
    ]


def roles(topics: Sequence[Topic]) -> list[str]:
    """The stages that have something to do with topics."""
    return sorted({stage for topic in topics for stage in (*topic.consumers, *topic.readers)})


def acl_commands(acls: Iterable[Acl], principal: str, bootstrap: str) -> list[str]:
    """The same rights as ``kafka-acls.sh`` command lines, one a resource.

    Args:
        acls: Rights.
        principal: Such as ``User:classifier``.
        bootstrap: Address of the broker.
    """
    merged: dict[tuple[Resource, str, Pattern], list[str]] = {}
    for acl in acls:
        merged.setdefault((acl.resource, acl.name, acl.pattern), []).append(_WORDS[acl.operation])
    lines = []
    for (resource, name, pattern), operations in merged.items():
        target = _FLAGS[resource] if resource is Resource.CLUSTER else f"{_FLAGS[resource]} {_quoted(name)}"
        shape = " --resource-pattern-type prefixed" if pattern is Pattern.PREFIXED else ""
        allowed = " ".join(f"--operation {word}" for word in operations)
        lines.append(
            f"kafka-acls.sh --bootstrap-server {bootstrap} --add --allow-principal {_quoted(principal)} {allowed} "
            f"{target}{shape}"
        )
    return lines


async def create_acls(connection: KafkaConnection, principal: str, acls: Iterable[Acl]) -> bool:
    """Give a principal its rights; those it has already stay.

    Returns:
        False if the broker has no authorizer: everybody may do everything there.

    Raises:
        NotPermittedError: Making rights is not allowed to us.
        BrokerUnavailableError: No answer.
    """
    client = AIOKafkaClient(**connection.client_arguments("acls"))
    try:
        await client.bootstrap()
        for acl in acls:
            name = _CLUSTER_NAME if acl.resource is Resource.CLUSTER else acl.name
            request = CreateAclsRequest(acl.resource, name, acl.pattern, principal, "*", acl.operation, _ALLOW)
            answer: Any = await client.send(client.get_random_node(), request)
            for code, said in answer.creation_responses:
                if code == _NO_AUTHORIZER:
                    return False
                if code in NOT_PERMITTED:
                    raise NotPermittedError(f"making rights: {said or describe(code)}")
                if code != Code.OK:
                    raise BrokerUnavailableError(f"making rights: {said or describe(code)}")
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error!r}") from error
    finally:
        await client.close()
    return True


def _written_by(role: str, topics: Sequence[str]) -> set[str]:
    """Logical topics that a stage's effects can name."""
    kind = role.split("-", 1)[0]
    tiers = {name for name in topics if name.startswith(TIER_PREFIX)}
    retries = {name for name in topics if name.startswith(RETRY_PREFIX)}
    written = {
        "classifier": {*tiers, RESULTS, PROVENANCE},  # provenance: what no flow record of its own says
        "worker": {COMPLETIONS, RESULTS},
        "guardrail": {*tiers, *retries, RESULTS},
        "audit": {PROVENANCE},
        MONITOR: {ALERTS},
        LEARNER: {LEARNED},
    }.get(kind, set())
    return written | ({dead_letter_topic(kind)} if kind in STAGES else set())


def _topics(names: Names, logical: Iterable[str], *operations: Operation) -> list[Acl]:
    return [Acl(Resource.TOPIC, names.topic(name), operation) for name in logical for operation in operations]


def _sorted(*acls: Acl) -> tuple[Acl, ...]:
    return tuple(sorted(set(acls)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
