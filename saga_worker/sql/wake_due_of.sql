-- The same, for a worker that lists its definitions: sagas it cannot run must not head the list for ever.
-- Indexes: wake_due, saga_ref_key.
SELECT w.ref
FROM saga_worker.wake AS w
LEFT JOIN LATERAL (
  SELECT s.definition || '/' || s.definition_version AS definition
  FROM saga_worker.saga AS s
  WHERE s.ref = w.ref
  OFFSET 0) AS s ON true
WHERE w.due_at <= statement_timestamp()
  AND coalesce(s.definition = ANY($2::text[]), true)
ORDER BY w.due_at
LIMIT $1::integer
