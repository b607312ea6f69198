"""Exchanges: from a routing key to the queues and exchanges bound for it.

Takes bindings and keys, returns destinations without duplicates in binding order per pattern. Direct and fanout are
a look-up, topic walks a tree of words, so the cost follows the key and not the number of bindings. Hands to
`vhost.py`.
"""

from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import TypeAlias

from . import properties
from .errors import precondition
from .messages import Message
from .queues import Queue

Destination: TypeAlias = "Queue | Exchange"
Destinations = dict[Destination, None]
"""A set that keeps its order."""


class Exchange:
    """The bindings by key; a `direct` exchange is just that."""

    kind = "direct"

    def __init__(
        self,
        name: str,
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, object],
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.alternate = arguments.get("alternate-exchange")
        self.bindings: dict[str, Destinations] = {}

    def bind(self, destination: Destination, key: str) -> None:
        self.bindings.setdefault(key, {})[destination] = None

    def unbind(self, destination: Destination, key: str) -> bool:
        """False when there was no such binding."""
        bound = self.bindings.get(key, {})
        if destination not in bound:
            return False
        del bound[destination]
        if not bound:
            del self.bindings[key]
        return True

    def destinations(self, key: str) -> Collection[Destination]:
        return self.bindings.get(key, ())

    def select(self, message: Message) -> Collection[Destination]:
        """Where `message` goes."""
        return self.destinations(message.routing_key)


class FanoutExchange(Exchange):
    kind = "fanout"

    def destinations(self, key: str) -> Collection[Destination]:
        bindings = self.bindings.values()
        return next(iter(bindings)) if len(bindings) == 1 else {each: None for bound in bindings for each in bound}


class _Word:
    """A node of the pattern tree; `ends` are the bindings whose pattern ends here."""

    __slots__ = ("ends", "following")

    def __init__(self) -> None:
        self.following: dict[str, _Word] = {}
        self.ends: Destinations = {}


class TopicExchange(Exchange):
    kind = "topic"

    def __init__(
        self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, object]
    ) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._root = _Word()

    def bind(self, destination: Destination, key: str) -> None:
        super().bind(destination, key)
        word = self._root
        for text in _words(key):
            word = word.following.setdefault(text, _Word())
        word.ends[destination] = None

    def unbind(self, destination: Destination, key: str) -> bool:
        if not super().unbind(destination, key):
            return False
        path = [self._root]
        for text in _words(key):
            path.append(path[-1].following[text])
        del path[-1].ends[destination]
        for text, word, parent in zip(reversed(_words(key)), reversed(path[1:]), reversed(path[:-1]), strict=True):
            if not word.ends and not word.following:
                del parent.following[text]
        return True

    def destinations(self, key: str) -> Collection[Destination]:
        found: Destinations = {}
        _collect(self._root, _words(key), 0, found)
        return found


class HashExchange(Exchange):
    """One destination per message, by the hash of its key or of a header; a binding's key is its weight.

    Messages without the header go to one destination together. Which one a value is given to is not RabbitMQ's choice.
    """

    kind = "x-consistent-hash"

    def __init__(
        self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, object]
    ) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._header = arguments.get("hash-header")
        self._buckets: list[Destination] = []

    def bind(self, destination: Destination, key: str) -> None:
        if not key.isascii() or not key.isdigit():
            precondition(f"The binding key must be an integer: '{key}'")
        if not any(destination in bound for bound in self.bindings.values()):
            super().bind(destination, key)
            self._buckets += [destination] * int(key)

    def unbind(self, destination: Destination, key: str) -> bool:
        self._buckets = [each for each in self._buckets if each is not destination]
        return super().unbind(destination, key)

    def select(self, message: Message) -> Collection[Destination]:
        if not self._buckets:
            return ()
        value = message.routing_key.encode()
        if isinstance(self._header, str):
            entries = properties.header_entries(properties.split(message.properties))
            value = entries.get(self._header.encode(), b"")
        return (self._buckets[_jump(int.from_bytes(sha256(value).digest()[:8], "big"), len(self._buckets))],)


PREDECLARED: Mapping[str, type[Exchange]] = {kind.kind: kind for kind in (Exchange, FanoutExchange, TopicExchange)}
KINDS: Mapping[str, type[Exchange]] = {**PREDECLARED, HashExchange.kind: HashExchange}


def _jump(key: int, buckets: int) -> int:
    """Jump consistent hashing: with one bucket more, only that one's share of the keys moves."""
    chosen, following = 0, 0
    while following < buckets:
        chosen = following
        key = (key * 2862933555777941757 + 1) % 2**64
        following = int((chosen + 1) * (2**31 / ((key >> 33) + 1)))
    return chosen


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _collect(word: _Word, words: list[str], at: int, found: Destinations) -> None:
    if at == len(words):
        found.update(word.ends)
    else:
        for text in (words[at], "*"):
            if (following := word.following.get(text)) is not None:
                _collect(following, words, at + 1, found)
    if (rest := word.following.get("#")) is not None:
        for skipped in range(at, len(words) + 1):
            _collect(rest, words, skipped, found)
