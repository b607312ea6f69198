-- No further attempt of these. One that runs keeps its worker and its time, so that its undo can wait for it.
-- Locked in the order of the key. Index: activity_pkey.
WITH found AS MATERIALIZED (
  SELECT a.ref, a.seq
  FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.state + 0 IN (0, 1) AND a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
UPDATE saga_worker.activity AS a
SET state = 4, epoch = a.epoch + 1
FROM found
WHERE a.ref = found.ref AND a.seq = found.seq AND a.ref = ANY($1::uuid[])
