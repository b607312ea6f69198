-- Activities that have their outcome, if they are still those that were handed out: gone, the result is an inbox row.
-- Locked in the order of the key. Index: activity_pkey.
WITH mine AS MATERIALIZED (
  SELECT a.ref, a.seq
  FROM unnest($1::uuid[], $2::integer[], $3::integer[]) AS v(ref, seq, epoch)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.epoch = v.epoch AND a.state = 1
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
DELETE FROM saga_worker.activity AS a
USING mine
WHERE a.ref = mine.ref AND a.seq = mine.seq
RETURNING a.ref, a.seq
