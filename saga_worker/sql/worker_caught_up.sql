-- This worker's consumer has stored what the queue held when it connected. The first time counts. Index: worker_pkey.
UPDATE saga_worker.worker
SET caught_up_at = coalesce(caught_up_at, clock_timestamp())
WHERE worker_id = $1::integer
