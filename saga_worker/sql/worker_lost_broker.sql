-- The consumer has lost its connection: replies may be waiting in the queue again. Index: worker_pkey.
UPDATE saga_worker.worker
SET caught_up_at = NULL
WHERE worker_id = $1::integer
