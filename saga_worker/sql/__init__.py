"""The fixed statements of this package, one file each, written with the literal schema `saga_worker.`.

Takes a schema name, guarantees that it is a plain identifier and that every statement names it quoted.
Hands the texts to `connection`, which runs them by the name of their file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from saga_worker.saga.errors import ConfigurationError

DEFAULT_SCHEMA: Final = "saga_worker"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_COMMENT: Final = re.compile(r"^[ \t]*--.*\n?", re.MULTILINE)


def quoted(schema: str) -> str:
    """The schema as an SQL identifier; raises `ConfigurationError` for anything but a plain lower-case name."""
    if not _SCHEMA.fullmatch(schema):
        raise ConfigurationError(
            "The schema has to be a lower-case name of letters, digits and '_', at most 41 characters: set SCHEMA."
        )
    return f'"{schema}"'


def in_schema(text: str, schema: str) -> str:
    """`text` with the literal prefix `saga_worker.` replaced by the quoted schema."""
    return text.replace("saga_worker.", quoted(schema) + ".")


@cache
def statements(schema: str) -> Mapping[str, str]:
    """Every statement by the name of its file, for this schema."""
    return MappingProxyType(
        {
            entry.name.removesuffix(".sql"): in_schema(_COMMENT.sub("", entry.read_text(encoding="utf-8")), schema)
            for entry in files("saga_worker.sql").iterdir()
            if entry.name.endswith(".sql")
        }
    )


def storable(text: str | None) -> str | None:
    """`text` as PostgreSQL can keep it: without NUL and lone surrogates, at most 2,000 characters.

    For words that come from authors and exceptions; identifiers are refused before they get here.
    """
    if text is None:
        return None
    return text[:2000].replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
