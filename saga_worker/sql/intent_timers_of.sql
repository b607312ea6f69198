-- Timers of these sagas, which are locked here, that other workers had in hand last. The table has some rows for each
-- worker. Index: saga_ref_key.
SELECT i.worker_id, i.alone, t.ref, t.timer, s.definition
FROM saga_worker.intent AS i
CROSS JOIN LATERAL unnest(i.refs, i.timers) AS t(ref, timer)
JOIN saga_worker.saga AS s ON s.ref = t.ref
WHERE i.worker_id <> $1::integer
  AND t.ref = ANY($2::uuid[])
