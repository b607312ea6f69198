-- Parked rows that no route came for: they have no saga, so the row's own lock is enough. Index: inbox_park_exp.
UPDATE saga_worker.inbox
SET state = 5, reason = 'unknown_type', error = 'No definition takes this type; it was kept for the parking period.',
    expires_at = NULL, first_failed_at = clock_timestamp(), last_failed_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT id
    FROM saga_worker.inbox
    WHERE state = 1
      AND expires_at <= statement_timestamp()
      AND ref IS NULL
    ORDER BY expires_at
    LIMIT $1::integer
    FOR NO KEY UPDATE SKIP LOCKED))
  AND state = 1
