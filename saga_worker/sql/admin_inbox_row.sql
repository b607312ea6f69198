-- One inbox row whole, with the saga it belongs to. Relies on the primary key of inbox and on saga_ref_key.
SELECT i.id, i.consumer, i.source, i.message_id, i.type, i.role, i.saga_key, s.saga_id, i.correlation_id,
       saga_worker.state_word(i.state) AS state, i.reason, i.error, i.suspect, i.attempts, i.crashes, i.received_at,
       i.first_failed_at, i.last_failed_at, i.next_at, i.expires_at, i.settled_at, i.props, i.body
FROM saga_worker.inbox i
LEFT JOIN saga_worker.saga s ON s.ref = i.ref
WHERE i.id = $1::bigint
