"""A file of events: what is read, what is refused, and that a body stays what it was."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from saga_worker.admin.event_file import MAXIMUM_LINE, BrokenLine, Event, parse_event, read_events


def test_data_is_kept_byte_for_byte() -> None:
    data = '{"cents": 1.10,  "big":123456789012345678901234567890, "text":"\\u00e9 é"}'

    event = parse_event(f'{{"id":"e1","type":"t","data":{data}}}'.encode())

    assert event == Event(id="e1", type="t", source="", body=data.encode())


def test_source_and_time_are_read() -> None:
    event = parse_event(b'{"id":"e1","type":"t","source":"bank","time":"2011-10-01T00:38:44.5+02:00","data":{}}')

    assert event.source == "bank"
    assert event.time is not None and event.time.timestamp() == 1317422324.5


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[]", "is not a JSON object"),
        ('"x"', "is not a JSON object"),
        ("{}", 'has no "id"'),
        ('{"id":"a","type":"t"}', 'has no "data"'),
        ('{"id":1,"type":"t","data":{}}', '"id" is not a string'),
        ('{"id":"","type":"t","data":{}}', '"id" is empty'),
        ('{"id":"a\\n","type":"t","data":{}}', '"id" holds a control character'),
        ('{"id":"\\ud800","type":"t","data":{}}', '"id" holds a lone surrogate'),
        ('{"id":"' + "é" * 128 + '","type":"t","data":{}}', '"id" is longer than 255 bytes'),
        ('{"id":"a","type":"t","data":[]}', '"data" is not an object'),
        ('{"id":"a","type":"t","data":{"x":NaN}}', "holds a number or a constant that JSON does not have"),
        (
            '{"id":"a","type":"t","data":{"x":' + "9" * 5000 + "}}",
            "holds a number or a constant that JSON does not have",
        ),
        ('{"id":"a","type":"t","data":' + '{"a":' * 100_000, "is nested too deeply"),
        ('{"id":"a","type":"t","data":{}', "ends in the middle of JSON"),
        ('{"id":"a",}', "is not JSON at column 11"),
        ('{"id" "a"}', "is not JSON at column 7"),
        ("{,}", "is not JSON at column 2"),
        ('{"id":"a"} x', "is not JSON at column 12"),
        ('{"id":"a","id":"b"}', 'has "id" twice'),
        ('{"id":"a","type":"t","data":{},"extra":1}', "has fields that are not read: extra"),
        ('{"id":"a","type":"t","data":{},"time":"yesterday"}', '"time" is not an ISO 8601 time after 1970'),
        (
            '{"id":"a","type":"t","data":{},"time":"0001-01-01T00:00:00+14:00"}',
            '"time" is not an ISO 8601 time after 1970',
        ),
        ('{"id":"a","type":"t","data":{},"time":5}', '"time" is not an ISO 8601 time after 1970'),
    ],
)
def test_a_broken_line_says_what_is_wrong(line: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_event(line.encode())

    assert str(caught.value) == problem


def test_broken_lines_are_numbered_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"id":"a","type":"t","data":{}}\n\n\xff\xfe\nnonsense\n{"id":"b","type":"t","data":{}}')

    lines = list(read_events(path, default_source="cli"))

    assert [line.id for line in lines if isinstance(line, Event)] == ["a", "b"]
    assert [line.source for line in lines if isinstance(line, Event)] == ["cli", "cli"]
    assert [line.number for line in lines if isinstance(line, BrokenLine)] == [3, 4]


def test_a_byte_order_mark_is_no_harm() -> None:
    assert parse_event(b'\xef\xbb\xbf{"id":"a","type":"t","data":{}}\r\n').id == "a"


def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * (2 * MAXIMUM_LINE + 10) + b'\n{"id":"a","type":"t","data":{}}\n')

    broken, event = read_events(path)

    assert broken == BrokenLine(1, "is longer than 16777216 bytes")
    assert isinstance(event, Event)


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id":"a","type":"t","data":{}}\n'))

    assert list(read_events(path)) == [Event(id="a", type="t", source="", body=b"{}")]


@pytest.mark.parametrize("damage", ["cut", "not gzip"])
def test_a_damaged_gzip_file_is_said(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(b'{"id":"a","type":"t","data":{}}\n' * 10_000)
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2] if damage == "cut" else b"plain text\n")

    *_, last = read_events(path)

    assert isinstance(last, BrokenLine)
    assert "damaged or cut" in last.problem
