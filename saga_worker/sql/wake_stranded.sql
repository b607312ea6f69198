-- Sagas of these definitions that are held for want of a version are looked at again. Index: saga_attention.
INSERT INTO saga_worker.wake AS w (ref, due_at)
SELECT ref, clock_timestamp()
FROM saga_worker.saga
WHERE attention IS NOT NULL
  AND attention LIKE '%no_upgrade: %'
  AND definition = ANY($1::text[])
  AND ref IS NOT NULL
ORDER BY ref
ON CONFLICT (ref) DO UPDATE
SET due_at = excluded.due_at
WHERE w.due_at > excluded.due_at
