-- Confirmed rows. Locked in the order of the key: joins on unsorted arrays deadlocked (3 of 160). Only the owner's:
-- what was taken over is not his to delete. Index: outbox_pkey.
WITH confirmed AS MATERIALIZED (
  SELECT o.ref, o.seq
  FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
  JOIN saga_worker.outbox AS o ON o.ref = v.ref AND o.seq = v.seq
  WHERE o.owner = $3::integer
  ORDER BY o.ref, o.seq
  FOR UPDATE OF o SKIP LOCKED
)
DELETE FROM saga_worker.outbox AS o
USING confirmed AS c
WHERE o.ref = c.ref AND o.seq = c.seq
