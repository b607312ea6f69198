-- A worker that ends in order: its lease is over at once. Index: worker_pkey.
UPDATE saga_worker.worker
SET lease_until = '-infinity'
WHERE worker_id = $1::integer
