-- The most partitions that the inbox of a namespace has ever had: their queues may hold something. Index:
-- sweep_cursor_pkey.
INSERT INTO saga_worker.sweep_cursor AS c (name, position)
VALUES ($1::text, $2::bigint)
ON CONFLICT (name) DO UPDATE
SET position = greatest(c.position, excluded.position)
RETURNING position
