-- Where rows of other owners stand before ours. Index: outbox_pkey.
SELECT DISTINCT ref, destination
FROM saga_worker.outbox
WHERE ref = ANY($1::uuid[])
  AND owner <> $2::integer
