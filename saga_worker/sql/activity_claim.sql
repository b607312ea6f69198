-- Ready activities of loaded definitions ("name/version"), those that wait longest first, for this worker. $4 leaves out
-- steps ("name/step"); $5, if given, takes only that one. The first attempt begins here, however long it was ready. Index: activity_ready.
WITH picked AS MATERIALIZED (
  SELECT ref, seq FROM saga_worker.activity
  WHERE state = 0 AND next_at <= statement_timestamp()
    AND definition || '/' || definition_version = ANY ($2::text[])
    AND NOT definition || '/' || step = ANY ($4::text[])
    AND ($5::text IS NULL OR definition || '/' || step = $5::text)
  ORDER BY next_at, ref, seq
  LIMIT $3::integer
  FOR UPDATE SKIP LOCKED
)
UPDATE saga_worker.activity AS a
SET state = 1, epoch = a.epoch + 1, attempts = a.attempts + 1, worker_id = $1::integer,
    begun_at = CASE WHEN a.attempts = 0 THEN clock_timestamp() ELSE a.begun_at END,
    timeout_at = clock_timestamp() + make_interval(secs => a.timeout_seconds)
FROM picked
WHERE a.ref = picked.ref AND a.seq = picked.seq AND a.state + 0 = 0 AND a.ref = ANY(ARRAY(SELECT ref FROM picked))
RETURNING a.ref, a.seq, a.run, a.undoes, a.definition, a.definition_version, a.saga_key, a.step, a.state, a.epoch,
          a.attempts, a.uncertain, a.timeout_at, a.input, a.traceparent, a.tracestate,
          extract(epoch FROM clock_timestamp() - a.begun_at)::double precision AS age
