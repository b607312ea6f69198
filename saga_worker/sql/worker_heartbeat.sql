-- Renews a lease that still runs; one that is over stays over. Index: worker_pkey.
UPDATE saga_worker.worker
SET lease_until = clock_timestamp() + make_interval(secs => $2::double precision)
WHERE worker_id = $1::integer
  AND lease_until >= clock_timestamp()
