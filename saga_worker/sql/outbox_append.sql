-- Rows of one commit, in the order of the key. A resend whose first copy is still here is that copy: nothing is added.
INSERT INTO saga_worker.outbox (
  ref, seq, owner, destination, type, exchange, routing_key, mandatory, props, body)
SELECT v.ref, v.seq, $2::integer, v.destination, v.type, v.exchange, v.routing_key, v.mandatory, v.props, v.body
FROM unnest($1::saga_worker.outbox_insert[]) AS v
ON CONFLICT (ref, seq) DO NOTHING
RETURNING ref, seq
