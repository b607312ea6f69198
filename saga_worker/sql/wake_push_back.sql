-- Due, but it may not fire yet: moved on, so that it does not head the list and starve the rest. Index: wake_pkey.
UPDATE saga_worker.wake
SET due_at = clock_timestamp() + make_interval(secs => $2::double precision)
WHERE ref = ANY($1::uuid[])
  AND due_at <= clock_timestamp()
