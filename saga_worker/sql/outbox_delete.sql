-- Confirmed rows. Locked in the order of the key; what another writes waits for the next time. Only the owner's: what was
-- taken over is not his to delete. Joins would do as well, until the planner takes the outbox for empty and walks its whole
-- index. Index: outbox_pkey.
WITH confirmed AS MATERIALIZED (
  SELECT o.ref, o.seq
  FROM saga_worker.outbox AS o
  WHERE o.ref = ANY($1::uuid[])
    AND o.owner = $3::integer
    AND ((o.ref, o.seq) IN (SELECT v.ref, v.seq FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq))) IS TRUE
  ORDER BY o.ref, o.seq
  FOR UPDATE SKIP LOCKED
)
DELETE FROM saga_worker.outbox AS o
WHERE o.ref = ANY($1::uuid[])
  AND ((o.ref, o.seq) IN (SELECT ref, seq FROM confirmed)) IS TRUE
