"""Making, checking and describing topics, first offsets, and access rights, on both brokers."""

import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import DescribeAclsRequest

from schemas.errors import ConfigurationError
from schemas.settings import Settings, TopicSettings
from streams.acls import (
    OPERATOR,
    PRODUCER,
    Acl,
    Operation,
    Pattern,
    Resource,
    acl_commands,
    acls_for,
    create_acls,
)
from streams.admin import create_topics, topic_config
from streams.brokers import KafkaCluster
from streams.clients import partitions_of
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, OffsetsLostError
from streams.offsets import commit_initial_offsets, committed_offsets
from streams.records import TP, OffsetCommit
from streams.runtime import find_platform
from streams.topic_check import Finding, Severity, check_topics
from streams.topic_report import describe_topics
from streams.topics import (
    ALERTS,
    ARCHIVE,
    COMPLETIONS,
    FEEDBACK,
    LEARNED,
    LEARNER,
    PROVENANCE,
    REGISTRY,
    REQUESTS,
    RESULTS,
    Names,
    Topic,
    dead_letter_topic,
    table,
    tier_topic,
    worker_name,
)
from tests.fixtures_brokers import TEST_JVM_OPTIONS, require_kafka

SETTINGS = TopicSettings(partitions=2)
TOPICS = table(SETTINGS, ("fast", "balanced"))


class Site:
    """An installation of its own on a shared broker."""

    def __init__(self, bootstrap: str, kind: BrokerKind) -> None:
        self.connection = KafkaConnection.at(bootstrap)
        self.kind = kind
        self.names = Names(f"admin-{uuid.uuid4().hex[:12]}.")

    def tp(self, logical: str, partition: int = 0) -> TP:
        return TP(self.names.topic(logical), partition)

    async def create(self, topics: tuple[Topic, ...] = TOPICS, **more: Any) -> Any:
        return await create_topics(self.connection, topics, self.names, SETTINGS, kind=self.kind, **more)

    async def check(self, topics: tuple[Topic, ...] = TOPICS, settings: TopicSettings = SETTINGS) -> list[Finding]:
        return await check_topics(self.connection, topics, self.names, settings)

    async def make(self, logical: str, partitions: int = 2, **config: str) -> None:
        client = AIOKafkaAdminClient(**self.connection.client_arguments())
        await client.start()
        configs = {key.replace("_", "."): value for key, value in config.items()}
        await client.create_topics([NewTopic(self.names.topic(logical), partitions, 1, topic_configs=configs)])
        await client.close()

    async def write(self, logical: str, count: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.connection.kafka.bootstrap, acks="all") as producer:
            for _ in range(count):
                await producer.send_and_wait(self.names.topic(logical), b"v", partition=0)

    async def committed(self, stage: str, logical: str) -> list[OffsetCommit | None]:
        tps = [self.tp(logical, number) for number in range(2)]
        found = await committed_offsets(self.connection, self.names.group(stage), tps)
        return [found[tp] for tp in tps]


@pytest_asyncio.fixture(loop_scope="session")
async def embedded(embedded_broker: str) -> Site:
    return Site(embedded_broker, BrokerKind.EMBEDDED)


@pytest_asyncio.fixture(loop_scope="session")
async def kafka(kafka_broker: str) -> Site:
    return Site(kafka_broker, BrokerKind.KAFKA)


class Suite:
    """What holds on every broker."""

    async def test_topics_are_made_once_with_first_offsets_for_every_group(self, site: Site) -> None:
        made = await site.create()
        assert sorted(made.created) == sorted(site.names.topic(topic.name) for topic in TOPICS)
        assert made.present == ()
        assert made.offsets == {
            site.names.group(stage): 2 * sum(stage in topic.consumers for topic in TOPICS)
            for stage in {stage for topic in TOPICS for stage in topic.consumers}
        }
        again = await site.create()
        assert (again.created, again.offsets) == ((), {})
        assert sorted(again.present) == sorted(made.created)
        partitions = await partitions_of(site.connection, made.created)
        assert {name: len(tps) for name, tps in partitions.items()} == {
            site.names.topic(topic.name): topic.partitions for topic in TOPICS
        }
        assert await site.committed("classifier", REQUESTS) == [OffsetCommit(0)] * 2
        assert await site.check() == []

    async def test_committed_offsets_are_never_changed(self, site: Site) -> None:
        await site.make(REQUESTS)
        await site.write(REQUESTS, 5)
        group = site.names.group("classifier")
        await commit_initial_offsets(site.connection, group, {site.tp(REQUESTS): OffsetCommit(3, "mine")})
        made = await site.create()
        assert made.offsets[group] == 1
        # Offsets only: the embedded broker forgets the metadata of commits.
        assert [found and found.offset for found in await site.committed("classifier", REQUESTS)] == [3, 0]

    async def test_a_group_without_offsets_on_records_that_were_there_is_only_adopted_on_purpose(
        self, site: Site
    ) -> None:
        await site.make(REQUESTS)
        await site.create(adopt=False)  # it is empty: nothing could run again
        await site.make(dead_letter_topic("lab"))
        lab = replace(TOPICS[-1], name=dead_letter_topic("lab"), consumers=("audit",))
        await site.write(lab.name, 2)
        with pytest.raises(OffsetsLostError, match=r"tierflow\.audit has no committed offset on .*dead-letters\.lab"):
            await site.create((*TOPICS, lab), adopt=False)
        assert await site.committed("audit", lab.name) == [None, None]
        await site.create((*TOPICS, lab))
        assert await site.committed("audit", lab.name) == [OffsetCommit(0)] * 2
        await site.create((*TOPICS, lab), adopt=False)

    async def test_findings_name_what_differs_and_what_to_do(self, site: Site) -> None:
        await site.make(REQUESTS, partitions=3, retention_bytes="1000000", message_timestamp_type="CreateTime")
        await site.make(RESULTS, retention_ms="1000", cleanup_policy="delete")
        await site.make(COMPLETIONS, max_message_bytes="1000", retention_ms="-1")
        await site.make(REGISTRY, partitions=1, cleanup_policy="delete")
        findings = await check_topics(
            site.connection, TOPICS, site.names, SETTINGS, longest_deadline=timedelta(hours=24)
        )
        said = {(finding.subject.removeprefix(site.names.prefix), finding.severity): finding for finding in findings}
        assert "does not exist" in said[PROVENANCE, Severity.ERROR].what
        assert "tierflow topics create" in said[PROVENANCE, Severity.ERROR].do
        assert "has 3 partitions, 2 are configured" in said[REQUESTS, Severity.ERROR].what
        warned = [finding.what for finding in findings if finding.subject == site.names.topic(REQUESTS)]
        assert any("retention.bytes is 1000000, -1 is configured" in what for what in warned)
        assert any("message.timestamp.type is CreateTime, LogAppendTime is configured" in what for what in warned)
        assert "it could be deleted before it is answered" in said[RESULTS, Severity.ERROR].what
        assert "max.message.bytes is 1000" in said[COMPLETIONS, Severity.ERROR].what
        assert "--add-config max.message.bytes=2031616" in said[COMPLETIONS, Severity.ERROR].do
        assert "cleanup.policy is delete, compact is configured" in said[REGISTRY, Severity.ERROR].what
        assert "no committed offset" in said["tierflow.classifier", Severity.ERROR].what
        severities = [finding.severity for finding in findings]
        assert severities == sorted(severities, key=[Severity.ERROR, Severity.WARNING].index)
        assert not [f for f in findings if f.subject == site.names.topic(COMPLETIONS) and "retention" in f.what]

    async def test_requests_that_wait_where_nobody_reads_any_more_are_found(self, site: Site) -> None:
        """A delay was taken out of the settings, or a tier out of the catalogue."""
        delay = Topic(
            name="retry.7s",
            record="assignment",
            key="",
            partitions=2,
            retention=SETTINGS.retention,
            consumers=("guardrail",),
        )
        tier = replace(delay, name="tier.gone", consumers=(worker_name("gone"),))
        await site.create((*TOPICS, delay, tier))
        assert await site.check() == []
        await site.write("retry.7s", 3)
        (finding,) = await site.check()
        assert (finding.severity, finding.subject) == (Severity.ERROR, site.names.topic("retry.7s"))
        assert "holds 3 requests that nobody reads" in finding.what
        assert await site.check((*TOPICS, delay, tier)) == []

    async def test_more_replicas_than_there_are_is_found(self, site: Site) -> None:
        await site.create()
        wanted = SETTINGS.model_copy(update={"replication": 3, "min_insync": 2})
        findings = [f for f in await site.check(settings=wanted) if f.subject == site.names.topic(REQUESTS)]
        assert [finding.severity for finding in findings] == [Severity.ERROR] * 2
        assert "has 1 replicas, 3 are configured" in findings[0].what
        assert "min.insync.replicas is 1, 2 is configured" in findings[1].what

    async def test_lag_is_what_a_group_has_not_committed(self, site: Site) -> None:
        await site.create()
        await site.write(REQUESTS, 4)
        group = site.names.group("classifier")
        await commit_initial_offsets(site.connection, group, {site.tp(REQUESTS): OffsetCommit(1)}, overwrite=True)
        missing = replace(TOPICS[0], name="never-made")
        reports = await describe_topics(site.connection, (*TOPICS, missing), site.names, kind=site.kind)
        found = {report.name: report for report in reports}
        requests = found[site.names.topic(REQUESTS)]
        assert (requests.exists, requests.held, requests.lag(group), requests.stable_lag(group)) == (True, 4, 3, 3)
        assert [part.lag(group) for part in requests.partitions] == [3, 0]
        assert requests.lag("nobody") is None
        assert found[site.names.topic(RESULTS)].lag(site.names.group("audit")) == 0
        assert not found[site.names.topic("never-made")].exists
        assert site.names.topic("never-made") not in await partitions_of(site.connection, found)


class TestEmbedded(Suite):
    @pytest.fixture
    def site(self, embedded: Site) -> Site:
        return embedded


class TestKafka(Suite):
    @pytest.fixture
    def site(self, kafka: Site) -> Site:
        return kafka

    async def test_topics_get_the_configuration_of_the_table(self, site: Site) -> None:
        await site.create()
        client = AIOKafkaAdminClient(**site.connection.client_arguments())
        await client.start()
        resources = [ConfigResource(ConfigResourceType.TOPIC, site.names.topic(topic.name)) for topic in TOPICS]
        (answer,) = await client.describe_configs(resources)
        await client.close()
        for _, _, _, name, entries in answer.resources:
            topic = next(topic for topic in TOPICS if site.names.topic(topic.name) == name)
            config = {entry[0]: entry[1] for entry in entries}
            expected = topic_config(topic, SETTINGS)
            assert {key: config[key] for key in expected} == expected
        assert expected["max.message.bytes"] == str(2 * 1024 * 1024)  # of dead letters, the table's last

    async def test_more_replicas_than_brokers_are_refused_with_a_reason(self, site: Site) -> None:
        wanted = SETTINGS.model_copy(update={"replication": 3})
        with pytest.raises(ConfigurationError, match=r"refuses topic .*eplication"):
            await create_topics(site.connection, TOPICS, site.names, wanted)

    async def test_a_new_group_starts_where_the_log_starts(self, site: Site) -> None:
        await site.make(REQUESTS)
        await site.write(REQUESTS, 5)
        client = AIOKafkaAdminClient(**site.connection.client_arguments())
        await client.start()
        await client.delete_records({site.tp(REQUESTS): RecordsToDelete(2)})
        await client.close()
        await site.create()
        assert await site.committed("classifier", REQUESTS) == [OffsetCommit(2), OffsetCommit(0)]

    async def test_an_open_transaction_hides_what_comes_behind_it(self, site: Site) -> None:
        await site.create()
        group = site.names.group("classifier")
        producer = AIOKafkaProducer(
            bootstrap_servers=site.connection.kafka.bootstrap, transactional_id=site.names.topic("open")
        )
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(site.names.topic(REQUESTS), b"v", partition=0)
        (report,) = await describe_topics(site.connection, TOPICS[:1], site.names, kind=site.kind)
        await producer.abort_transaction()
        await producer.stop()
        assert (report.lag(group), report.stable_lag(group)) == (1, 0)

    async def test_a_broker_without_an_authorizer_says_so(self, site: Site) -> None:
        assert not await create_acls(site.connection, "User:x", acls_for("classifier", TOPICS, site.names))


async def test_no_broker_is_said_with_its_address() -> None:
    site = Site("127.0.0.1:9", BrokerKind.KAFKA)
    acls = acls_for("classifier", TOPICS, site.names)
    for asked in (site.create(), site.check(), create_acls(site.connection, "User:x", acls)):
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:9"):
            await asked


@pytest.mark.kafka
async def test_rights_are_made_where_there_is_an_authorizer(tmp_path: Path) -> None:
    await require_kafka()
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    async with KafkaCluster(work_dir=tmp_path, settings=authorizer, jvm_options=TEST_JVM_OPTIONS) as cluster:
        connection, names = KafkaConnection.at(cluster.bootstrap), Names("acl.")
        wanted = acls_for(worker_name("fast"), TOPICS, names)
        for _ in range(2):  # again is harmless
            assert await create_acls(connection, "User:worker", wanted)
        client = AIOKafkaClient(**connection.client_arguments())
        await client.bootstrap()
        anything = DescribeAclsRequest(1, None, 1, "User:worker", None, 1, 1)
        answer: Any = await client.send(client.get_random_node(), anything)
        await client.close()
    found = {
        Acl(Resource(kind), name, Operation(operation), Pattern(pattern))
        for kind, name, pattern, acls in answer.resources
        for _, host, operation, permission in acls
        if host == "*" and permission == 3
    }
    assert found == set(wanted)


@pytest.mark.kafka
@pytest.mark.parametrize("role", [worker_name("fast"), ARCHIVE])
async def test_a_role_may_find_out_what_the_broker_can_do(tmp_path: Path, role: str) -> None:
    """With the rights that it is given and no others: who may not ask can't start."""
    await require_kafka()
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",  # of topics and cluster; the rest is said to be somebody else's below
    }
    async with KafkaCluster(work_dir=tmp_path, settings=authorizer, jvm_options=TEST_JVM_OPTIONS) as cluster:
        settings = Settings.model_validate({"kafka": {"bootstrap": cluster.bootstrap}, "topics": {"prefix": "acl."}})
        connection = KafkaConnection.at(cluster.bootstrap)
        rights = [each for each in acls_for(role, TOPICS, Names("acl.")) if each.resource is not Resource.TOPIC]
        assert await create_acls(connection, "User:ANONYMOUS", rights)
        theirs = [Acl(kind, "*", Operation.WRITE) for kind in (Resource.GROUP, Resource.TRANSACTIONAL_ID)]
        assert await create_acls(connection, "User:somebody", theirs)
        assert (await find_platform(settings)).capabilities.transactions


def allowed(role: str, operation: Operation, resource: Resource = Resource.TOPIC) -> set[str]:
    return {
        acl.name for acl in acls_for(role, TOPICS, Names()) if (acl.operation, acl.resource) == (operation, resource)
    }


def test_rights_follow_from_what_a_stage_reads_and_writes() -> None:
    tiers = {tier_topic("fast"), tier_topic("balanced")}
    assert allowed("classifier", Operation.READ) == {REQUESTS, REGISTRY, LEARNED}
    assert allowed("classifier", Operation.WRITE) == {*tiers, RESULTS, PROVENANCE, dead_letter_topic("classifier")}
    assert allowed("worker-fast", Operation.READ) == {tier_topic("fast"), REGISTRY}
    assert allowed("worker-fast", Operation.WRITE) == {COMPLETIONS, RESULTS, dead_letter_topic("worker")}
    retries = {"retry.10s", "retry.1m", "retry.10m"}
    assert allowed("guardrail", Operation.WRITE) == {*tiers, *retries, RESULTS, dead_letter_topic("guardrail")}
    assert allowed("guardrail", Operation.READ) == {COMPLETIONS, *retries, REGISTRY}
    assert allowed("audit", Operation.WRITE) == {PROVENANCE, dead_letter_topic("audit")}
    assert allowed("monitor", Operation.WRITE) == {ALERTS}
    assert allowed("archive", Operation.WRITE) == set()
    assert allowed(PRODUCER, Operation.READ) == {RESULTS}
    assert RESULTS not in allowed(OPERATOR, Operation.WRITE)
    assert allowed("worker-fast", Operation.READ, Resource.GROUP) == {"tierflow.worker-fast"}
    assert allowed("worker-fast", Operation.WRITE, Resource.TRANSACTIONAL_ID) == {
        "tierflow.worker-fast",
        "tierflow.probe",
    }
    assert allowed(ARCHIVE, Operation.WRITE) == set()
    assert allowed(LEARNER, Operation.READ) == {*tiers, RESULTS, FEEDBACK, REGISTRY, LEARNED}
    assert allowed(LEARNER, Operation.WRITE) == {LEARNED}
    assert not allowed(LEARNER, Operation.READ, Resource.GROUP)
    prefixed = acls_for("guardrail", TOPICS, Names("mine."))
    # What a stage's probe takes (see find_platform) begins with the prefix, too.
    assert {acl.name for acl in prefixed if acl.resource is Resource.TRANSACTIONAL_ID} == {
        "mine.tierflow.guardrail",
        "mine.tierflow.probe",
    }


def test_nobody_who_only_watches_may_write_results() -> None:
    stages = {stage for topic in TOPICS for stage in (*topic.consumers, *topic.readers)}
    writers = {stage for stage in stages if RESULTS in allowed(stage, Operation.WRITE)}
    assert writers == {"classifier", "guardrail", "worker-fast", "worker-balanced"}


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'auditor'.*audit, classifier"):
        acls_for("auditor", TOPICS, Names())


def test_commands_hold_the_same_rights_quoted() -> None:
    acls = acls_for(worker_name("fast"), TOPICS, Names("it's."))
    lines = acl_commands(acls, "User:CN=a b", "127.0.0.1:9092")
    assert (
        "kafka-acls.sh --bootstrap-server 127.0.0.1:9092 --add --allow-principal 'User:CN=a b' "
        "--operation Write --operation Describe --topic 'it'\\''s.completions'"
    ) in lines
    (prefixed,) = [line for line in lines if line.endswith("--resource-pattern-type prefixed")]
    assert "--operation Write --operation Describe --transactional-id 'it'\\''s.tierflow.worker-fast' " in prefixed
    assert sum(line.count("--operation") for line in lines) == len(acls)
