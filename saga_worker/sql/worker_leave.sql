-- A worker that ends in order goes at once, with its intents: nobody has to find it dead. Index: worker_pkey.
WITH intents AS (
  DELETE FROM saga_worker.intent WHERE worker_id = $1::integer
)
DELETE FROM saga_worker.worker
WHERE worker_id = $1::integer
