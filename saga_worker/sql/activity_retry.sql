-- Activities of which an attempt failed: ready again after a rest, the next attempt has a newer epoch.
-- Index: activity_pkey.
WITH mine AS MATERIALIZED (
  SELECT a.ref, a.seq, v.rest, v.uncertain, v.attempts_back, v.error
  FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::double precision[], $5::boolean[], $6::integer[], $7::text[])
    AS v(ref, seq, epoch, rest, uncertain, attempts_back, error)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.epoch = v.epoch AND a.state + 0 = 1 AND a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
UPDATE saga_worker.activity AS a
SET state = 0, epoch = a.epoch + 1, worker_id = NULL, timeout_at = NULL, attempts = a.attempts - mine.attempts_back,
    next_at = clock_timestamp() + make_interval(secs => mine.rest), uncertain = a.uncertain OR mine.uncertain,
    last_error = coalesce(mine.error, a.last_error)
FROM mine
WHERE a.ref = mine.ref AND a.seq = mine.seq AND a.ref = ANY($1::uuid[])
RETURNING a.ref, a.seq
