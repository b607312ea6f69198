"""Committed messages to the broker. See `relay` for the stage and `lanes` for the order it keeps."""

from saga_worker.outbox_relay.relay import INVALID, OutboxRelay, RelayTimes

__all__ = ["INVALID", "OutboxRelay", "RelayTimes"]
