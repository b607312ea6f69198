-- A new worker with a lease from now. Numbers are never used twice, so that an owner is one process for ever.
INSERT INTO saga_worker.worker (lease_until, definitions, host, pid)
VALUES (clock_timestamp() + make_interval(secs => $4::double precision), $1::text[], $2::text, $3::integer)
RETURNING worker_id
