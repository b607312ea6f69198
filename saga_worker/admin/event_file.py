"""A file of events, JSON lines or gzip of them, read line by line.

Takes a path, guarantees that memory holds one line at a time and that a broken line is reported, never guessed at;
hands `Event`s to `publish`. `data` is kept byte for byte as it stands in the file, so that numbers stay exact and
the same file gives the same bodies.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from json.decoder import scanstring  # type: ignore[attr-defined]  # the scanner of a JSON string, exported by CPython
from pathlib import Path
from typing import IO, Any, Final, NoReturn

MAXIMUM_LINE: Final = 16 * 1024 * 1024
MAXIMUM_NAME: Final = 255  # bytes of an AMQP short string
FIELDS: Final = frozenset({"id", "type", "source", "data", "time"})


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    type: str
    source: str
    body: bytes
    time: datetime | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class BrokenLine:
    number: int
    problem: str


def read_events(path: Path, *, default_source: str = "") -> Iterator[Event | BrokenLine]:
    """Every line of the file as an event or as what is wrong with it; blank lines are skipped."""
    with _open(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if isinstance(line, str):
                yield BrokenLine(number, line)
            elif line.strip():
                try:
                    yield parse_event(line, default_source=default_source)
                except ValueError as problem:
                    yield BrokenLine(number, str(problem))


def parse_event(line: bytes, *, default_source: str = "") -> Event:
    """One line; raises ValueError with what is wrong, without values."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from None
    fields = _fields(text.removeprefix("\ufeff").strip())
    if strange := fields.keys() - FIELDS:
        raise ValueError(f"has fields that are not read: {', '.join(sorted(strange))}")
    return Event(
        id=name(fields, "id"),
        type=name(fields, "type"),
        source=name(fields, "source") if "source" in fields else default_source,
        body=_body(fields),
        time=_time(fields),
    )


def check_data(text: str) -> bytes:
    """The body for `text` from the command line; raises ValueError when it is not a JSON object."""
    _scan(text, 0, nothing_after=True)
    if not text.lstrip().startswith("{"):
        raise ValueError("is not a JSON object")
    return text.strip().encode()


def name(fields: dict[str, str], field: str) -> str:
    """The string in `field`, if it can stand in a message's properties."""
    if field not in fields:
        raise ValueError(f'has no "{field}"')
    value = json.loads(fields[field])
    if not isinstance(value, str):
        raise ValueError(f'"{field}" is not a string')
    check_name(value, field, may_be_empty=field == "source")
    return value


def check_name(value: str, field: str, *, may_be_empty: bool = False) -> None:
    """Raises ValueError unless `value` fits an AMQP short string without control characters."""
    if not value and not may_be_empty:
        raise ValueError(f'"{field}" is empty')
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f'"{field}" holds a lone surrogate') from None
    if size > MAXIMUM_NAME:
        raise ValueError(f'"{field}" is longer than {MAXIMUM_NAME} bytes')
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
        raise ValueError(f'"{field}" holds a control character')


def _body(fields: dict[str, str]) -> bytes:
    if not fields.get("data", "").startswith("{"):
        raise ValueError('"data" is not an object' if "data" in fields else 'has no "data"')
    return fields["data"].encode()


def _time(fields: dict[str, str]) -> datetime | None:
    if "time" not in fields:
        return None
    try:
        time = datetime.fromisoformat(json.loads(fields["time"]))
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if time.timestamp() >= 0:
            return time
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError('"time" is not an ISO 8601 time after 1970')


def _fields(text: str) -> dict[str, str]:
    """The members of a JSON object by name, each as it is written."""
    if not text.startswith("{"):
        raise ValueError("is not a JSON object")
    fields: dict[str, str] = {}
    position = _skip(text, 1)
    while text[position : position + 1] != "}" or fields:
        if text[position : position + 1] != '"':
            _broken(text, position)
        try:
            key, position = scanstring(text, position + 1)
        except ValueError:
            _broken(text, position)
        position = _expect(text, position, ":")
        end = _scan(text, position)
        if key in fields:
            raise ValueError(f'has "{key}" twice' if key in FIELDS else "has a field twice")
        fields[key] = text[position:end]
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            break
        position = _expect(text, position, ",")
    if (end := _skip(text, position + 1)) != len(text):
        _broken(text, end)
    return fields


def _scan(text: str, position: int, *, nothing_after: bool = False) -> int:
    """The end of the JSON value at `position`."""
    try:
        if nothing_after:
            _DECODER.decode(text)
            return len(text)
        _, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        _broken(text, error.pos)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError:
        raise ValueError("holds a number or a constant that JSON does not have") from None
    return end


def _refuse_constant(constant: str) -> Any:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _expect(text: str, position: int, character: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != character:
        _broken(text, position)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _broken(text: str, position: int) -> NoReturn:
    raise ValueError("ends in the middle of JSON" if position >= len(text) else f"is not JSON at column {position + 1}")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(file: IO[bytes]) -> Iterator[bytes | str]:
    """The lines; a text instead says why one could not be read."""
    while True:
        try:
            line = file.readline(MAXIMUM_LINE + 1)
            if len(line) > MAXIMUM_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAXIMUM_LINE)
                yield f"is longer than {MAXIMUM_LINE} bytes"
                continue
        except (EOFError, gzip.BadGzipFile, zlib.error):
            yield "cannot be unpacked: the gzip file is damaged or cut; nothing after it was read"
            return
        if not line:
            return
        yield line
