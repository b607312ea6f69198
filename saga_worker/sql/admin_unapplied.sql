-- Which of these operator rows are still to be applied. Relies on the primary key of inbox.
SELECT count(*) FROM saga_worker.inbox WHERE id = ANY($1::bigint[]) AND state = 0
