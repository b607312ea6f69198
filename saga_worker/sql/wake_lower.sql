-- The wake row is a lower bound of the saga's armed timers: a step only lowers it. Index: wake_pkey.
INSERT INTO saga_worker.wake AS w (ref, due_at)
SELECT v.ref, v.due_at
FROM unnest($1::uuid[], $2::timestamptz[]) AS v(ref, due_at)
ON CONFLICT (ref) DO UPDATE
SET due_at = excluded.due_at
WHERE w.due_at > excluded.due_at
