-- Sagas with a timer that is due. statement_timestamp() is an index condition, clock_timestamp() is not: 0.01 ms against
-- 85 ms over 200,000 timers. Index: wake_due.
SELECT ref
FROM saga_worker.wake
WHERE due_at <= statement_timestamp()
ORDER BY due_at
LIMIT $1::integer
