-- The outcomes of a batch, as decided under the locks of their sagas. Index: inbox_pkey.
UPDATE saga_worker.inbox AS i
SET state = v.state, reason = v.reason, error = v.error, suspect = v.suspect, attempts = v.attempts,
    crashes = v.crashes, next_at = v.next_at, expires_at = v.expires_at, first_failed_at = v.first_failed_at,
    last_failed_at = v.last_failed_at, sequence = v.sequence,
    settled_at = CASE WHEN v.state IN (3, 4) THEN coalesce(v.settled_at, clock_timestamp()) END
FROM unnest($1::saga_worker.inbox_outcome[]) AS v
WHERE i.id = v.id
  AND i.id = ANY($2::bigint[])
