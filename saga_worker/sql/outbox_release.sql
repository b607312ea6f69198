-- A worker that ends gives up what it could not send: the others take it at once.
WITH mine AS MATERIALIZED (
  SELECT ref, seq
  FROM saga_worker.outbox
  WHERE owner = $1::integer
  ORDER BY ref, seq
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE saga_worker.outbox AS o
SET owner = 0
FROM mine AS m
WHERE o.ref = m.ref AND o.seq = m.seq
