-- Messages of these sagas that the broker has not confirmed. Index: outbox_pkey.
SELECT ref, seq
FROM saga_worker.outbox
WHERE ref = ANY($1::uuid[])
