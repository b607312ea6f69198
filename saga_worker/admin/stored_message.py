"""One stored message in readable form. Whatever cannot be decoded is shown as hex: a row is never unreadable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from saga_worker.saga.rows import Role


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a document: role as a word, properties and body decoded if they can be."""
    document = {name: value for name, value in row.items() if name not in ("body", "props", "role")}
    document["role"] = Role(row["role"]).name.lower()
    document["properties"] = decoded(bytes(row["props"]))
    document["body"] = decoded(bytes(row["body"]))
    return document


def decoded(raw: bytes) -> object:
    """JSON as it is, other text as text, anything else as `hex:…`."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "hex:" + raw.hex()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
