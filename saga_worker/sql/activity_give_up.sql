-- Activities without an attempt left whose outcome is unknown: kept, for a late success or an operator's retry.
-- Index: activity_pkey.
WITH mine AS MATERIALIZED (
  SELECT a.ref, a.seq, v.error
  FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[]) AS v(ref, seq, epoch, error)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.epoch = v.epoch AND a.state + 0 = 1 AND a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
UPDATE saga_worker.activity AS a
SET state = 3, epoch = a.epoch + 1, worker_id = NULL, last_error = mine.error
FROM mine
WHERE a.ref = mine.ref AND a.seq = mine.seq AND a.ref = ANY($1::uuid[])
RETURNING a.ref, a.seq
