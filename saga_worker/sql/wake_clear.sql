-- Sagas without a timer that may fire. Index: wake_pkey.
DELETE FROM saga_worker.wake
WHERE ref = ANY($1::uuid[])
