-- What became of these rows. Relies on the primary key of inbox.
SELECT saga_worker.state_word(state) AS state, reason FROM saga_worker.inbox WHERE id = ANY($1::bigint[])
