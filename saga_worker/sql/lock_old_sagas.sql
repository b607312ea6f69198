-- Sagas that may leave: final, settled and old, and not children of one that is still there, which may want them to be
-- taken back. Indexes: saga_finished_at, child_ref.
SELECT saga_id, ref
FROM saga_worker.saga AS s
WHERE finished_at < statement_timestamp() - make_interval(secs => $1::double precision)
  AND finished_at IS NOT NULL
  AND unsettled = 0
  AND (SELECT c.parent FROM saga_worker.child AS c WHERE c.ref = s.ref LIMIT 1) IS NULL
ORDER BY finished_at
LIMIT $2::integer
FOR UPDATE OF s SKIP LOCKED
