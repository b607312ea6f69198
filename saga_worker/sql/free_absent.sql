-- Held rows whose definition is listed again. Index: inbox_absent, empty as a rule. Rows that a lock holder is writing
-- are his to judge, hence skipped.
UPDATE saga_worker.inbox
SET state = 0, reason = NULL, next_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT i.id
    FROM saga_worker.inbox AS i
    JOIN saga_worker.saga AS s ON s.ref = i.ref
    WHERE i.state = 2
      AND i.reason = 'definition_absent'
      AND s.definition || '/' || s.definition_version = ANY($1::text[])
    ORDER BY i.id
    LIMIT $2::integer
    FOR NO KEY UPDATE OF i SKIP LOCKED))
  AND state = 2
  AND reason = 'definition_absent'
RETURNING ref
