-- Locks the place where a saga would be: without it two transactions park and create past each other.
SELECT r
FROM unnest($1::uuid[]) AS r
WHERE pg_try_advisory_xact_lock(('x' || left(replace(r::text, '-', ''), 16))::bit(64)::bigint)
