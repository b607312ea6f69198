"""Takes the RabbitMQ that this machine's packages installed and starts a private node, without root.

Guarantees: ports, data, cookie, password and port mapper (epmd) of its own, all on loopback; the same port and data
after every restart; nothing left behind. For tests that stop, kill or pause a broker, and for `testing.backends`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from saga_worker.trial.private_server import PrivateServer
from saga_worker.trial.supervisor import ServerUnavailable, Supervisor, free_port, last_lines

START_SECONDS = 90.0
PLUGINS = ("rabbitmq_consistent_hash_exchange",)
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"


@dataclass(frozen=True, slots=True)
class RabbitmqBinaries:
    """RabbitMQ's own scripts (not the distribution's wrappers, which insist on root) and Erlang's programs."""

    scripts: Path
    erlang: Path

    @property
    def plugins(self) -> Path:
        """The directory of the plugins of this release."""
        return (self.scripts / "rabbitmq-server").resolve().parent.parent / "plugins"

    @property
    def description(self) -> str:
        release = (self.scripts / "rabbitmq-server").resolve().parent.parent.name
        return f"{release.replace('rabbitmq_server-', 'RabbitMQ ')} in {self.scripts}"


def local_rabbitmq() -> RabbitmqBinaries | None:
    """The installed RabbitMQ, or None when it or its Erlang is missing."""
    erlang = shutil.which("erl", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/lib/erlang/bin"]))
    places = [
        Path("/usr/lib/rabbitmq/bin"),
        Path("/opt/rabbitmq/sbin"),
        *sorted(Path("/usr/local/opt").glob("rabbitmq*/sbin")),
        *sorted(Path("/opt/homebrew/opt").glob("rabbitmq*/sbin")),
    ]
    scripts = next((place for place in places if (place / "rabbitmq-server").is_file()), None)
    if scripts is None or erlang is None or shutil.which("epmd", path=_path(Path(erlang).parent)) is None:
        return None
    return RabbitmqBinaries(scripts, Path(erlang).parent)


class LocalRabbitmq(PrivateServer):
    """A private RabbitMQ node, as a context manager (sync or async) or by `start` and `close`. Up in some 4 seconds."""

    KIND = "RabbitMQ node"

    def __init__(
        self,
        binaries: RabbitmqBinaries | None = None,
        *,
        plugins: Sequence[str] = ("rabbitmq_consistent_hash_exchange",),
    ) -> None:
        """`plugins` that the installation does not have are left out."""
        super().__init__()
        found = binaries or local_rabbitmq()
        if found is None:
            raise ServerUnavailable(
                "There is no RabbitMQ here: install the Debian package rabbitmq-server, or give the URL of a broker."
            )
        self.binaries = found
        self._plugins = [name for name in plugins if any(found.plugins.glob(f"{name}-*"))]
        self.node = f"saga-{secrets.token_hex(4)}@localhost"
        self._password = secrets.token_hex(12)
        self._environment: dict[str, str] = {}

    @property
    def url(self) -> str:
        return self.url_for("/")

    def url_for(self, virtual_host: str) -> str:
        path = "%2F" if virtual_host == "/" else virtual_host
        return f"amqp://guest:{self._password}@127.0.0.1:{self.port}/{path}"

    @property
    def is_running(self) -> bool:
        """False after `stop` and `kill`; a paused node runs."""
        return self._running().wait("rabbitmq", seconds=0) is None

    def start(self) -> Self:
        """Start, or start again after `stop` or `kill`, on the same ports and data. Returns when AMQP is answered."""
        try:
            if self._supervisor is None:
                self._prepare()
            self._running().start(
                "rabbitmq", [self.binaries.scripts / "rabbitmq-server"], log=self.log, environment=self._environment
            )
            self._wait_for_amqp(deadline=time.monotonic() + START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the node in order; what was persistent stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node as a crash would.

        A quorum queue that was declared less than a second before answers nobody after the restart (measured on 3.10:
        the node flushes its list of them late). Let a queue be used for a second before its node is killed.
        """
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the node: connections stay open and nothing answers, until `resume`."""
        self._running().signal("rabbitmq", signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal("rabbitmq", signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node (a second or so) and return what it prints."""
        done = subprocess.run(
            [str(self.binaries.scripts / "rabbitmqctl"), "--quiet", "--node", self.node, *arguments],
            env=self._environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerUnavailable(f"rabbitmqctl {arguments[0]} failed on {self.node}: {done.stderr.strip()}")
        return done.stdout

    def _end(self, number: int) -> None:
        self._running().signal("rabbitmq", number)
        deadline = time.monotonic() + START_SECONDS
        ended = self._running().wait("rabbitmq", seconds=START_SECONDS) is not None
        # The script has ended; after a kill, the virtual machine below it takes some milliseconds more.
        while ended and _answers_amqp(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not ended or time.monotonic() > deadline:
            raise ServerUnavailable(f"RabbitMQ on port {self.port} did not stop; see {self.log}.")

    def _prepare(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="saga-worker-rabbitmq-"))
        self._supervisor = Supervisor(directory)
        self.port, epmd_port = free_port(), free_port()
        (directory / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        (directory / "env.conf").touch()
        configuration = directory / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(f"default_user = guest\ndefault_pass = {self._password}\n")
        self._environment = _environment(self, directory, epmd_port)
        # Without one that runs in the foreground, Erlang starts a daemon that outlives every node.
        epmd = [shutil.which("epmd", path=self._environment["PATH"]) or "epmd", "-port", str(epmd_port)]
        self._running().start("epmd", [*epmd, "-address", "127.0.0.1"], log=self.log, environment=self._environment)

    def _wait_for_amqp(self, *, deadline: float) -> None:
        while not _answers_amqp(self.port):
            ended = self._running().wait("rabbitmq", seconds=0.05) is not None
            if ended or time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"{self.binaries.description} did not start on port {self.port}:\n{last_lines(self.log)}"
                )


def _answers_amqp(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(AMQP_GREETING)
            return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
    except OSError:
        return False


def _path(erlang: Path) -> str:
    return os.pathsep.join([str(erlang), os.environ.get("PATH", os.defpath), "/usr/bin", "/bin"])


def _environment(node: LocalRabbitmq, directory: Path, epmd_port: int) -> dict[str, str]:
    return {
        "PATH": _path(node.binaries.erlang),
        "HOME": str(directory),  # the Erlang cookie
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": node.node,
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(node.port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        # Of this node only: what /etc/rabbitmq says is for the machine's own broker.
        "RABBITMQ_CONF_ENV_FILE": str(directory / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
    }
