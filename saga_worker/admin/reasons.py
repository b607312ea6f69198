"""The reason codes that a stored message can have, for whoever asks for one that does not exist.

Names only; docs/operations.md says what each means, and a test holds the two together. Used by `inbox_commands`.
"""

from __future__ import annotations

from typing import Final

REASONS: Final = (
    "after_pivot", "already_passed", "bad_key", "bad_operator_command", "bad_sequence", "behind_dead", "compensating",
    "contradictory_reply", "definition_absent", "delivery_limit", "discarded", "duplicate_key", "duplicate_reply",
    "duplicate_start", "earlier_run", "failed", "filtered", "handler_error", "id_reused", "internal_only",
    "invalid_encoding", "invalid_json", "invalid_message_id", "invalid_source", "invalid_type", "joined_run",
    "key_mismatch", "late_reply", "listed_already", "missing_message_id", "missing_type", "no_compensation",
    "no_definition", "no_upgrade", "not_an_object", "not_expected", "not_expected_yet", "not_handled", "not_listed",
    "not_paused", "not_repeatable", "not_waiting", "nothing_to_mark", "nothing_to_retry", "nul_character",
    "number_out_of_range", "out_of_sequence", "paused", "payload_too_large", "rechecked", "run_open", "run_unsettled",
    "saga_finished", "schema_mismatch", "timer_not_armed", "too_deep", "too_late", "unknown_activity", "unknown_child",
    "unknown_child_command", "unknown_command", "unknown_operator_command", "unknown_parent", "unknown_saga",
    "unknown_type", "unreadable", "unstorable", "unsupported_content_type", "unsupported_encoding", "worker_killed",
)  # fmt: skip
