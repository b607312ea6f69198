-- The oldest row of other owners per saga and destination: only what is newer than it has to wait. A later row must
-- not count, or two workers with rows of one saga would wait for each other. Index: outbox_pkey.
SELECT ref, destination, min(seq) AS seq
FROM saga_worker.outbox
WHERE ref = ANY($1::uuid[])
  AND owner <> $2::integer
GROUP BY ref, destination
