"""The trace that a saga belongs to: W3C Trace Context, taken from messages and handed on with every message.

Takes headers as they came, guarantees that what is handed on is valid, and that what is not is as good as absent.
`decide` keeps a trace in the saga's progress; `outbox` writes it into the headers of what the saga sends.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from msgspec import Struct
from pydantic_core import from_json

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
_PARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.S
)
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_STATE_CHARACTERS: Final = 512
_STORED: Final = b'"traceparent":'  # as `props` of an inbox row hold it, and inbox/read_backlog.sql looks for it


class Trace(Struct, frozen=True, array_like=True):
    """`parent` and `state` are the values of the headers; `state` may be empty. Stored as an array, which SQL reads."""

    parent: str
    state: str = ""

    @property
    def id(self) -> str:
        """The trace id, 32 hexadecimal digits."""
        return self.parent[3:35]

    @property
    def headers(self) -> dict[str, str]:
        """What a message that belongs to this trace carries."""
        return {PARENT: self.parent, STATE: self.state} if self.state else {PARENT: self.parent}


def read_trace(parent: object, state: object = None) -> Trace | None:
    """The trace that these header values name; None when the parent is absent or invalid, whatever the state.

    Of a version after 00 what this one knows is handed on, as version 00. A state that is invalid or longer than 512
    characters is left out.
    """
    found = _PARENT.fullmatch(parent) if isinstance(parent, str) else None
    if found is None or (found[1] == "00" and found[4] is not None):
        return None
    text = found[0] if found[1] == "00" else f"00-{found[2]}-{int(found[3], 16) & 1:02x}"
    return Trace(text, _read_state(state) if isinstance(state, str) else "")


def stored_trace(props: bytes) -> Trace | None:
    """The trace of a stored message; `props` is the JSON of its properties. Nearly free for those without one."""
    if _STORED not in props:
        return None
    headers = from_json(props).get("headers", {})
    headers = headers.get("$table", headers)
    return read_trace(headers.get(PARENT), headers.get(STATE))


def new_trace(saga_id: UUID) -> Trace:
    """A trace that begins with this saga: its id is the saga's, and it is sampled."""
    return Trace(f"00-{saga_id.hex}-{saga_id.hex[16:]}-01")


def _read_state(text: str) -> str:
    members = [member.strip(" \t") for member in text.split(",")]
    is_valid = len(text) <= _STATE_CHARACTERS and all(_MEMBER.fullmatch(member) for member in members if member)
    return text.strip(" \t") if is_valid else ""
