-- Dead to ready: compare-and-set, so that replaying twice applies once. Index: inbox_pkey.
UPDATE saga_worker.inbox
SET state = 0, reason = NULL, error = NULL, suspect = false, attempts = 0, crashes = 0, next_at = clock_timestamp(),
    expires_at = NULL, first_failed_at = NULL, last_failed_at = NULL
WHERE id = ANY($1::bigint[])
  AND state = 5
  AND ref IS NOT NULL
RETURNING id, ref
