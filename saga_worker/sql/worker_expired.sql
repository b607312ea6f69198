-- Workers whose lease is over, locked so that one process buries each. Index: worker_pkey.
SELECT worker_id
FROM saga_worker.worker
WHERE lease_until < statement_timestamp()
ORDER BY worker_id
FOR UPDATE SKIP LOCKED
