"""Takes command lines of servers and runs them as children of one small process of its own.

When this program closes the supervisor, or dies in any way, every server ends and the directory is removed.
Hands return codes back to the launchers in `trial.postgres`, `trial.local_rabbitmq` and `testing.backends`.

The two sides talk by JSON lines over the child's standard input and output. The end of the input is the signal to clean
up: the operating system closes that pipe whatever kills the program, which a signal to the parent's thread
(PR_SET_PDEATHSIG) or an exit handler does not give.
"""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

GRACE_SECONDS = 10.0
_turns = itertools.count()


class ServerUnavailable(Exception):
    """A server cannot be found or does not start; the sentence says what to install or where to look."""


def free_port() -> int:
    """A loopback port that was free a moment ago; the caller must cope with losing it.

    Programs that choose at the same time choose from different hundreds, and none is given twice in a row. Not one that
    the system gives to outgoing connections: while a server is stopped, a client that keeps trying such a port can be
    given the same number for its own end, and is then connected to itself.
    """
    own_hundred = 15_000 + os.getpid() % 170 * 100
    for _ in range(100):
        port = own_hundred + next(_turns) % 100
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerUnavailable(f"The loopback ports {own_hundred} to {own_hundred + 99} are all taken; try again.")


def last_lines(log: Path, *, count: int = 5) -> str:
    """The end of a server's log, for the sentence that says why it did not start."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([line for line in lines if line.strip()][-count:])


class Supervisor:
    """The program's end of the pipe. Methods may be called from any thread."""

    def __init__(self, directory: Path, *, remove: bool = True) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        # -I -S: by path and without site-packages, so that it starts in 15 ms and imports nothing of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(directory), "remove" if remove else "keep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal must reach the program, not its servers
        )

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        user: int | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> int:
        """Start a server under a name that has none running; output is appended to the log. Returns the process id."""
        answer = self._ask(
            act="start",
            name=name,
            command=[str(part) for part in command],
            log=str(log),
            environment=dict(environment),
            user=user,
            stop_signal=int(stop_signal),
        )
        if "error" in answer:
            raise ServerUnavailable(f"{command[0]} cannot be started: {answer['error']}")
        return int(answer["pid"])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the server and to what shares its process group; nothing happens if it has ended."""
        self._ask(act="signal", name=name, number=int(number))

    def wait(self, name: str, *, seconds: float) -> int | None:
        """The return code of the server, or None if it still runs after that time."""
        code: int | None = self._ask(act="wait", name=name, seconds=seconds)["code"]
        return code

    def close(self) -> None:
        """End the servers, remove the directory, and return when both is done. May be called twice."""
        with self._lock:
            if self._process.stdin is None or self._process.stdin.closed:
                return
            self._process.stdin.close()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            except (ValueError, BrokenPipeError) as error:  # closed, or the end of its output
                raise ServerUnavailable(f"The supervisor of {self.directory} has ended; make a new one.") from error
            return answer


class _Children:
    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["name"]
        match request["act"]:
            case "start":
                return self._start(name, request)
            case "signal":
                self._signal(self._running[name][0], request["number"])
                return {}
            case "wait":
                return {"code": self._wait(self._running[name][0], request["seconds"])}
            case act:
                return {"error": f"unknown act {act}"}

    def end(self) -> None:
        for process, stop_signal in reversed(self._running.values()):
            self._signal(process, stop_signal)
            self._signal(process, signal.SIGCONT)  # a paused server takes no other signal
            if self._wait(process, GRACE_SECONDS) is None:
                self._signal(process, signal.SIGKILL)
                process.wait()

    def _start(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        user: int | None = request["user"]
        try:
            with open(request["log"], "ab") as log:
                process = subprocess.Popen(
                    request["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=request["environment"],
                    cwd="/",
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
        except (OSError, subprocess.SubprocessError) as error:
            return {"error": str(error)}
        self._running.pop(name, None)
        self._running[name] = (process, request["stop_signal"])
        return {"pid": process.pid}

    @staticmethod
    def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
        # Not reaped yet, so the id still belongs to this child and its group.
        if process.poll() is None:
            os.killpg(process.pid, number)

    @staticmethod
    def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def _supervise(directory: str, fate: str, requests: TextIO, answers: TextIO) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    children = _Children()
    try:
        for line in requests:
            answers.write(json.dumps(children.answer(json.loads(line))) + "\n")
            answers.flush()
    except BrokenPipeError:
        pass  # the program died between a request and its answer
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children.end()
        if fate == "remove":
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _supervise(sys.argv[1], sys.argv[2], sys.stdin, sys.stdout)
