"""Apache Kafka as Tierflow starts it: what is missing is named, what it keeps outlives it, three nodes lose one."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from aiokafka.client import AIOKafkaClient

from schemas.errors import ConfigurationError, ProcessError
from streams.brokers import KAFKA_VERSION, KafkaCluster, kafka_available, resolve_kafka
from streams.brokers import distribution as distribution_module
from streams.brokers.kafka_config import Layout, NodePorts, new_cluster_id, server_properties
from streams.brokers.ports import pick_free
from tests.fixtures_brokers import TEST_JVM_OPTIONS, require_kafka
from tests.streams.brokers_helpers import consume, create_topic, listens_on, produce

NEW_JAVA = "echo 'openjdk version \"21.0.2\" 2024-01-16' >&2"
OLD_JAVA = "echo 'java version \"1.8.0_292\"' >&2"
LAYOUT = Layout(cluster_id="AAAAAAAAAAAAAAAAAAAAAA", nodes=(NodePorts(client=1, controller=2),))

# Stands for Maven: says that it ran, and makes the one jar that is looked for.
MAVEN_THAT_WORKS = f"""
echo run >> "$(dirname "$0")/runs"
for argument in "$@"; do case "$argument" in -DoutputDirectory=*) libs="${{argument#*=}}";; esac; done
mkdir -p "$libs" && sleep 0.3 && touch "$libs/kafka_2.13-{KAFKA_VERSION}.jar"
"""


class Machine:
    """A machine with only the programs it is given, and an empty cache."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = root / "cache"
        self.bin = root / "bin"
        self.bin.mkdir()
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("TIERFLOW_CACHE", str(self.cache))
        monkeypatch.setenv("PATH", f"{self.bin}:/nowhere")

    def install(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def fetched(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*/*/libs/*"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


class TestResolve:
    def test_no_java(self, machine: Machine) -> None:
        assert re.search(r"no java on the path: install Java 17 or newer", kafka_available() or "")

    def test_bad_java_home(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        machine.install("java", NEW_JAVA)
        monkeypatch.setenv("JAVA_HOME", "/opt/gone")
        assert "JAVA_HOME is /opt/gone, but there is no program /opt/gone/bin/java" in (kafka_available() or "")

    async def test_old_java(self, machine: Machine) -> None:
        machine.install("java", OLD_JAVA)
        with pytest.raises(ConfigurationError, match=r"bin/java is Java 8, too old for Apache Kafka: install Java 17"):
            await resolve_kafka()

    def test_java_that_is_none(self, machine: Machine) -> None:
        machine.install("java", "echo hello")
        assert "tells no version ('hello')" in (kafka_available() or "")

    async def test_no_maven(self, machine: Machine) -> None:
        machine.install("java", NEW_JAVA)
        assert "no mvn on the path: install Maven" in (kafka_available() or "")
        with pytest.raises(ConfigurationError, match="no mvn on the path"):
            await resolve_kafka()

    async def test_maven_that_fails_is_quoted_and_leaves_nothing_behind(self, machine: Machine) -> None:
        machine.install("java", NEW_JAVA)
        machine.install("mvn", "echo '[ERROR] no route to host'; exit 1")
        with pytest.raises(ProcessError, match=r"(?s)could not resolve Apache Kafka.*no route to host"):
            await resolve_kafka()
        machine.install("mvn", "echo 'all is well'")  # ends well, and brings nothing
        with pytest.raises(ProcessError, match=r"(?s)could not resolve Apache Kafka.*all is well"):
            await resolve_kafka()
        machine.install("mvn", "sleep 60")
        with pytest.raises(ProcessError, match="Maven did not end within"):
            await resolve_kafka(within=timedelta(milliseconds=300))
        assert machine.fetched() == []
        machine.install("mvn", MAVEN_THAT_WORKS)
        await resolve_kafka()
        assert machine.fetched() == [f"kafka_2.13-{KAFKA_VERSION}.jar"]

    async def test_two_at_once_fetch_once_and_later_ones_need_no_maven(self, machine: Machine) -> None:
        machine.install("java", NEW_JAVA)
        machine.install("mvn", MAVEN_THAT_WORKS)
        one, other = await asyncio.gather(resolve_kafka(), resolve_kafka())
        assert one == other
        assert (machine.bin / "runs").read_text(encoding="utf-8") == "run\n"
        (machine.bin / "mvn").unlink()
        assert kafka_available() is None
        assert await resolve_kafka() == one

    async def test_a_lock_that_is_held_for_too_long_is_named(self, machine: Machine) -> None:
        machine.install("java", NEW_JAVA)
        machine.install("mvn", "sleep 60")
        first = asyncio.create_task(resolve_kafka())
        while not list(machine.cache.glob("*/*.partial")):
            await asyncio.sleep(0.05)
        with pytest.raises(ProcessError, match=r"another process holds .*\.lock"):
            await resolve_kafka(within=timedelta(milliseconds=300))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        machine.install("mvn", MAVEN_THAT_WORKS)
        await resolve_kafka()  # the lock is free again

    async def test_a_cache_that_cannot_be_written_is_named(self, machine: Machine) -> None:
        machine.install("java", NEW_JAVA)
        machine.install("mvn", MAVEN_THAT_WORKS)
        machine.cache.write_text("a file, not a folder", encoding="utf-8")
        with pytest.raises(ConfigurationError, match=r"the cache can't be written: .*set TIERFLOW_CACHE"):
            await resolve_kafka()

    def test_the_pom_pins_the_version_that_the_code_names(self) -> None:
        pom = Path(distribution_module.__file__).with_name("pom.xml").read_text(encoding="utf-8")
        assert f"<artifactId>kafka_2.13</artifactId>\n      <version>{KAFKA_VERSION}</version>" in pom


class TestConfig:
    def test_one_node_replicates_nothing(self, tmp_path: Path) -> None:
        lines = server_properties(LAYOUT, 1, data_dir=tmp_path, settings={"num.io.threads": "9"}).splitlines()
        assert "listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2" in lines
        assert "offsets.topic.replication.factor=1" in lines
        assert "min.insync.replicas=1" in lines
        assert "num.io.threads=9" in lines
        assert "num.io.threads=4" not in lines

    def test_three_nodes_go_on_with_two(self, tmp_path: Path) -> None:
        nodes = tuple(NodePorts(client=10 + i, controller=20 + i, proxied=30 + i) for i in range(3))
        layout = replace(LAYOUT, nodes=nodes)
        lines = server_properties(
            layout, 2, data_dir=tmp_path, advertised_proxy="127.0.0.1:99", settings={}
        ).splitlines()
        assert "node.id=2" in lines
        assert "controller.quorum.voters=1@127.0.0.1:20,2@127.0.0.1:21,3@127.0.0.1:22" in lines
        assert "advertised.listeners=PLAINTEXT://127.0.0.1:11,PROXIED://127.0.0.1:99" in lines
        assert "transaction.state.log.replication.factor=3" in lines
        assert "transaction.state.log.min.isr=2" in lines

    def test_a_layout_is_kept(self, tmp_path: Path) -> None:
        assert Layout.load(tmp_path) is None
        LAYOUT.save(tmp_path)
        assert Layout.load(tmp_path) == LAYOUT

    @pytest.mark.parametrize("text", ["{", "[]", '{"cluster_id": "x"}', '{"cluster_id": "x", "nodes": [{"a": 1}]}'])
    def test_a_damaged_layout_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "cluster.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=r"cluster\.json is not a cluster's layout"):
            Layout.load(tmp_path)

    def test_cluster_ids_look_like_no_option(self) -> None:
        ids = {new_cluster_id() for _ in range(500)}
        assert len(ids) == 500
        assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", drawn) for drawn in ids)

    def test_numbers_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="1 or 3 nodes, not 2"):
            KafkaCluster(nodes=2)
        with pytest.raises(ConfigurationError, match="ports: 1 given for 3 nodes"):
            KafkaCluster(nodes=3, ports=[9092])


async def nodes_told_by(address: str) -> set[tuple[int, str, int]]:
    client = AIOKafkaClient(bootstrap_servers=address)
    await client.bootstrap()
    try:
        return {(broker.nodeId, broker.host, broker.port) for broker in client.cluster.brokers()}
    finally:
        await client.close()


@pytest.mark.kafka
class TestCluster:
    @pytest.fixture(autouse=True)
    async def kafka(self) -> None:
        await require_kafka()

    async def test_records_outlive_a_crash_and_a_restart_on_the_same_folder(self, tmp_path: Path) -> None:
        async with KafkaCluster(work_dir=tmp_path, jvm_options=TEST_JVM_OPTIONS) as cluster:
            bootstrap, pid = cluster.bootstrap, cluster.pid(1)
            assert bootstrap in listens_on(pid)
            assert all(address.startswith("127.0.0.1:") for address in listens_on(pid))
            with pytest.raises(ProcessError, match="runs already"):
                await cluster.start()
            with pytest.raises(ConfigurationError, match="is in use by another running cluster"):
                await KafkaCluster(work_dir=tmp_path).start()
            topic = await create_topic(bootstrap)
            await produce(bootstrap, topic, ["before the crash"])
            await cluster.kill(1)
            assert not psutil.pid_exists(pid)
            await cluster.restart(1)
            assert cluster.bootstrap == bootstrap
            await produce(bootstrap, topic, ["after the crash"])
        assert not psutil.pid_exists(cluster.pid(1))

        proxy = f"127.0.0.1:{pick_free(1)[0]}"
        async with KafkaCluster(work_dir=tmp_path, proxies=[proxy], jvm_options=TEST_JVM_OPTIONS) as again:
            assert again.bootstrap == bootstrap
            assert await consume(bootstrap, topic, 2) == ["before the crash", "after the crash"]
            host, port = proxy.split(":")
            assert await nodes_told_by(again.proxy_targets[0]) == {(1, host, int(port))}
        with pytest.raises(ConfigurationError, match="holds a cluster of 1 nodes, not 3"):
            await KafkaCluster(nodes=3, work_dir=tmp_path).start()

    async def test_a_setting_that_kafka_refuses_is_told_in_its_words(self, tmp_path: Path) -> None:
        cluster = KafkaCluster(work_dir=tmp_path, settings={"num.io.threads": "none"}, jvm_options=TEST_JVM_OPTIONS)
        with pytest.raises(ProcessError, match=r"num\.io\.threads"):
            await cluster.start()
        with pytest.raises(ProcessError, match="was not started"):
            cluster.pid(1)

    async def test_a_port_in_use_is_named(self, embedded_broker: str) -> None:
        port = int(embedded_broker.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use"):
            await KafkaCluster(ports=[port]).start()

    @pytest.mark.timeout(240)
    async def test_three_nodes_go_on_when_one_is_killed(self, tmp_path: Path) -> None:
        async with KafkaCluster(nodes=3, jvm_options=TEST_JVM_OPTIONS) as cluster:
            pids = [cluster.pid(node) for node in (1, 2, 3)]
            told = [await nodes_told_by(address) for address in cluster.addresses]
            assert [len(nodes) for nodes in told] == [3, 3, 3]
            topic = await create_topic(cluster.bootstrap, replicas=3)
            await produce(cluster.bootstrap, topic, ["three"])
            await cluster.kill(2)
            survivors = ",".join(cluster.addresses[i] for i in (0, 2))
            await produce(survivors, topic, ["two"])
            await cluster.restart(2)
            assert await consume(cluster.addresses[1], topic, 2) == ["three", "two"]
            with pytest.raises(ConfigurationError, match="there is no node 4"):
                cluster.pid(4)
        assert not any(psutil.pid_exists(pid) for pid in pids)
