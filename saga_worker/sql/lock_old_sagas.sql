-- Sagas that may leave: final, settled and old. Index: saga_finished_at.
SELECT saga_id, ref
FROM saga_worker.saga
WHERE finished_at < statement_timestamp() - make_interval(secs => $1::double precision)
  AND finished_at IS NOT NULL
  AND unsettled = 0
ORDER BY finished_at
LIMIT $2::integer
FOR UPDATE SKIP LOCKED
