-- The unconfirmed messages of a ref. Relies on the primary key of outbox.
SELECT saga_worker.command_id(ref, seq) AS message_id, seq, destination, type, owner, attempts, next_at, last_error
FROM saga_worker.outbox
WHERE ref = $1::uuid
ORDER BY seq
