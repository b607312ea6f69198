-- Where the last pass of a sweep ended; the lock makes passes of two workers take turns without waiting.
SELECT position
FROM saga_worker.sweep_cursor
WHERE name = $1::text
FOR NO KEY UPDATE SKIP LOCKED
