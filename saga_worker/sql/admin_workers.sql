-- How many workers hold their lease.
SELECT count(*) FROM saga_worker.worker WHERE lease_until > clock_timestamp()
