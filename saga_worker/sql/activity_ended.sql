-- Cancelled attempts have ended: their undos need not wait any longer. Index: activity_pkey.
WITH ended AS MATERIALIZED (
  SELECT a.ref, a.seq
  FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.state + 0 = 4 AND a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
), forgotten AS (
  UPDATE saga_worker.activity AS a SET worker_id = NULL
  FROM ended
  WHERE a.ref = ended.ref AND a.seq = ended.seq AND a.ref = ANY($1::uuid[])
)
UPDATE saga_worker.activity AS u
SET next_at = clock_timestamp()
FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
WHERE u.ref = v.ref AND u.undoes = v.seq AND u.state + 0 = 0 AND u.attempts = 0
  AND u.ref = ANY($1::uuid[])
