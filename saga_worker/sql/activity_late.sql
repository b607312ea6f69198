-- Attempts that succeeded after their activity was given up or cancelled: what they did is known after all.
-- Index: activity_pkey.
WITH mine AS MATERIALIZED (
  SELECT a.ref, a.seq
  FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.state + 0 IN (3, 4) AND a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
DELETE FROM saga_worker.activity AS a
USING mine
WHERE a.ref = mine.ref AND a.seq = mine.seq AND a.ref = ANY($1::uuid[])
RETURNING a.ref, a.seq
