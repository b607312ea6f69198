-- The cursor of a sweep, at the start of its lap, unless it is there.
INSERT INTO saga_worker.sweep_cursor (name, position)
VALUES ($1::text, 0)
ON CONFLICT (name) DO NOTHING
