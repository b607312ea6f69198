-- In how many seconds the next ready activity is due. Index: activity_ready.
SELECT extract(epoch FROM next_at - statement_timestamp())::double precision
FROM saga_worker.activity
WHERE state = 0
ORDER BY next_at
LIMIT 1
