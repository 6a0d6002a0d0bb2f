"""A real Apache Kafka in KRaft mode, one process, on loopback.

The jars come through Maven once and stay in the user's cache folder.
"""

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from .processes import end, free_ports, guarded, server_pid, unavailable

POM: Final = Path(__file__).with_name("pom.xml")
READY_TIMEOUT_S: Final = 40.0
JVM: Final = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
"""


def jars() -> Path:
    """The folder of the broker's jars, filled through Maven where it is not yet."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "kronos_stream-tests" / "kafka-4.1.1"
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        unavailable("no Maven (mvn) to fetch Apache Kafka's jars: install it or KRONOS_TEST_KAFKA")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={fetched}"]
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True
        )
        if done.returncode:
            unavailable(f"Maven could not fetch Apache Kafka's jars: {done.stdout[-500:]}")
        # Another session may have been faster.
        if not folder.is_dir():
            fetched.rename(folder)
    return folder


class Listener(NamedTuple):
    """One more address of the broker: what it listens on, and what it tells its clients."""

    name: str
    port: int
    advertised_port: int
    protocol: str = "PLAINTEXT"


class Kafka:
    """One broker, at `bootstrap`; its data outlive a stop or a kill and go when it is closed.

    `listeners` come beside the plain one; `more` are further lines of its properties; `users` are
    SCRAM credentials in the words of the tool that formats the storage.
    """

    def __init__(
        self,
        *,
        listeners: Sequence[Listener] = (),
        more: str = "",
        users: Sequence[str] = (),
    ) -> None:
        if shutil.which("java") is None:
            unavailable("no Java (java) to run Apache Kafka: install 17 or later")
        self._java = ["java", *JVM, "-cp", f"{jars()}/*"]
        self._folder = tempfile.TemporaryDirectory(prefix="kronos-kafka-")
        self.folder = Path(self._folder.name)
        port, controller = free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        every = [Listener("PLAINTEXT", port, port), *listeners]
        self._properties = self.folder / "server.properties"
        self._properties.write_text(
            PROPERTIES.format(
                listeners=",".join(f"{x.name}://127.0.0.1:{x.port}" for x in every),
                advertised=",".join(f"{x.name}://127.0.0.1:{x.advertised_port}" for x in every),
                protocols=",".join(f"{x.name}:{x.protocol}" for x in every),
                controller=controller,
                data=self.folder / "data",
            )
            + more
        )
        # The tool takes a leading dash for an option.
        cluster = "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)]
        for user in users:
            tool += ["--add-scram", user]
        subprocess.run([*self._java, *tool], check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        """Start, or start again on the same data; returns when it answers."""
        with (self.folder / "server.log").open("ab") as output:
            self._process = guarded(
                [*self._java, "kafka.Kafka", str(self._properties)],
                cwd=self.folder,
                output=output,
            )
        self._wait(self.folder / "server.log")

    def stop(self) -> None:
        """End it in good order."""
        os.kill(server_pid(self._process), signal.SIGTERM)
        self._process.wait()
        end(self._process)

    def kill(self) -> None:
        """End it by force, as a lost machine would."""
        os.kill(server_pid(self._process), signal.SIGKILL)
        self._process.wait()
        end(self._process)

    def _wait(self, output: Path) -> None:
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                if client.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = output.read_text(errors="replace")[-2000:]
                    self.close()
                    raise RuntimeError(f"Apache Kafka did not start:\n{text}") from None

    def close(self) -> None:
        """End the broker and remove its data."""
        end(self._process)
        self._folder.cleanup()
