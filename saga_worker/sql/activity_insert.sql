-- Activities of one commit, in the order of the key; those of which $11 says so run here at once. The undo of one whose
-- cancelled attempt may still run waits until that has ended. One that was given up begins again with its old input.
-- Index: activity_pkey.
INSERT INTO saga_worker.activity AS a (
  ref, seq, run, undoes, definition, definition_version, saga_key, step, state, epoch, attempts, worker_id, next_at,
  timeout_at, timeout_seconds, input, traceparent, tracestate)
SELECT v.ref, v.seq, v.run, v.undoes, v.definition, v.definition_version, v.saga_key, v.step,
       CASE WHEN w.is_mine THEN 1 ELSE 0 END, 1, CASE WHEN w.is_mine THEN 1 ELSE 0 END,
       CASE WHEN w.is_mine THEN $14::integer END, coalesce(f.timeout_at, clock_timestamp()),
       CASE WHEN w.is_mine THEN clock_timestamp() + make_interval(secs => v.timeout_seconds) END, v.timeout_seconds,
       v.input, v.traceparent, v.tracestate
FROM unnest(
  $1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::text[], $8::text[],
  $9::double precision[], $10::bytea[], $11::boolean[], $12::text[], $13::text[])
  AS v(ref, seq, run, undoes, definition, definition_version, saga_key, step, timeout_seconds, input, is_mine,
       traceparent, tracestate)
LEFT JOIN saga_worker.activity AS f
  ON f.ref = ANY($1::uuid[]) AND f.ref = v.ref AND f.seq = v.undoes AND f.state = 4 AND f.worker_id IS NOT NULL
  AND f.timeout_at > clock_timestamp()
CROSS JOIN LATERAL (SELECT v.is_mine AND f.ref IS NULL AS is_mine) AS w
ON CONFLICT (ref, seq) DO UPDATE
SET run = excluded.run, state = excluded.state, epoch = a.epoch + 1, attempts = excluded.attempts, uncertain = false,
    worker_id = excluded.worker_id, next_at = excluded.next_at, timeout_at = excluded.timeout_at,
    begun_at = excluded.begun_at
WHERE a.state = 3
RETURNING ref, seq, run, undoes, definition, definition_version, saga_key, step, state, epoch, attempts, uncertain,
          timeout_at, input, traceparent, tracestate, 0::double precision AS age
