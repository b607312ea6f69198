-- Running activities of workers that are gone or whose lease is over, and those that hang long after their time-out;
-- of loaded definitions only, because the definition knows how often to try. Indexes: activity_worker, worker_pkey.
SELECT a.ref, a.seq, a.run, a.undoes, a.definition, a.definition_version, a.saga_key, a.step, a.state, a.epoch,
       a.attempts, a.uncertain, a.timeout_at, a.input, a.traceparent, a.tracestate,
       extract(epoch FROM clock_timestamp() - a.begun_at)::double precision AS age
FROM saga_worker.activity AS a
WHERE a.state = 1
  AND a.definition || '/' || a.definition_version = ANY ($1::text[])
  AND (a.timeout_at < statement_timestamp() - make_interval(secs => $2::double precision)
       OR NOT EXISTS (SELECT FROM saga_worker.worker AS w
                      WHERE w.worker_id = a.worker_id AND w.lease_until >= statement_timestamp()))
ORDER BY a.ref, a.seq
LIMIT $3::integer
FOR UPDATE OF a SKIP LOCKED
