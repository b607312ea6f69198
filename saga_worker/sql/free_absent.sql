-- Held rows whose definition is listed again, or whose saga is over for good, as in lock_absent. Index: inbox_absent, empty as a rule. Rows that a lock holder is writing
-- are his to judge, hence skipped.
UPDATE saga_worker.inbox
SET state = 0, reason = NULL, next_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT i.id
    FROM saga_worker.inbox AS i
    JOIN saga_worker.saga AS s ON s.ref = i.ref
    WHERE i.state = 2
      AND i.reason = 'definition_absent'
      AND (s.definition || '/' || s.definition_version = ANY($1::text[])
           OR (s.finished_at IS NOT NULL AND s.unsettled = 0
               AND (SELECT c.parent FROM saga_worker.child AS c WHERE c.ref = s.ref LIMIT 1) IS NULL
               AND EXISTS (SELECT FROM unnest($1::text[]) AS live
                           WHERE left(live, length(s.definition) + 1) = s.definition || '/')))
    ORDER BY i.id
    LIMIT $2::integer
    FOR NO KEY UPDATE OF i SKIP LOCKED))
  AND state = 2
  AND reason = 'definition_absent'
RETURNING ref
