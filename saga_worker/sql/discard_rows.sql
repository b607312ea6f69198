-- Dead to ignored: compare-and-set, as a replay. Index: inbox_pkey.
UPDATE saga_worker.inbox
SET state = 4, reason = 'discarded', settled_at = clock_timestamp(), next_at = NULL, expires_at = NULL
WHERE id = ANY($1::bigint[])
  AND state = 5
RETURNING id, ref, consumer, saga_key
