-- Where this pass of a sweep ended.
UPDATE saga_worker.sweep_cursor
SET position = $2::bigint, updated_at = clock_timestamp()
WHERE name = $1::text
