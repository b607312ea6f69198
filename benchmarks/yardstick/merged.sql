-- :b events of :b sagas in two transactions: store and advance as one (rows are born processed), relay.
\set s random(1, :n - :b)
\set e :s + :b - 1
BEGIN;
INSERT INTO inbox (message_id, saga_id, kind, payload, status, processed_at) SELECT gen_random_uuid(), saga_key(i), 'captured', payload(i), 1, now() FROM generate_series(:s::bigint, :e::bigint) i ON CONFLICT DO NOTHING RETURNING message_id;
SELECT id, status, step, version, data FROM saga WHERE id BETWEEN saga_key(:s) AND saga_key(:e) ORDER BY id FOR UPDATE;
UPDATE saga SET step = saga.step + 1, version = saga.version + 1, data = v.data, updated_at = now() FROM (SELECT saga_key(i) AS id, payload(i) AS data FROM generate_series(:s::bigint, :e::bigint) i) v WHERE saga.id = v.id AND saga.id BETWEEN saga_key(:s) AND saga_key(:e);
INSERT INTO saga_history (saga_id, version, kind, data) SELECT id, version, 1, data FROM saga WHERE id BETWEEN saga_key(:s) AND saga_key(:e);
INSERT INTO outbox (saga_id, exchange, routing_key, message_id, payload) SELECT saga_key(i), 'commands', 'ship', gen_random_uuid(), payload(i) FROM generate_series(:s::bigint, :e::bigint) i;
COMMIT;
WITH d AS (DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :b FOR UPDATE SKIP LOCKED) RETURNING id, exchange, routing_key, message_id, payload) SELECT * FROM d ORDER BY id;
