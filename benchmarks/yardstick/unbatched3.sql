-- The same as three transactions, as a worker that takes messages one by one really commits: store, advance, relay.
\set s random(1, :n)
\set t :s
\set inbox_id 0
\set outbox_id 0
INSERT INTO inbox (message_id, saga_id, kind, payload) VALUES (gen_random_uuid(), saga_key(:s), 'captured', payload(:s)) ON CONFLICT DO NOTHING;
BEGIN;
SELECT id AS inbox_id, (payload->>'saga')::bigint AS t, kind, payload FROM inbox WHERE status = 0 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED \aset
SELECT status, step, version, data FROM saga WHERE id = saga_key(:t) FOR UPDATE;
UPDATE saga SET step = step + 1, version = version + 1, data = payload(:s), updated_at = now() WHERE id = saga_key(:t) RETURNING version AS v \gset
INSERT INTO saga_history (saga_id, version, kind, data) VALUES (saga_key(:t), :v, 1, payload(:s));
INSERT INTO outbox (saga_id, exchange, routing_key, message_id, payload) VALUES (saga_key(:t), 'commands', 'ship', gen_random_uuid(), payload(:s));
UPDATE inbox SET status = 1, processed_at = now() WHERE id = :inbox_id;
COMMIT;
BEGIN;
SELECT id AS outbox_id, exchange, routing_key, message_id, payload FROM outbox ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED \aset
DELETE FROM outbox WHERE id = :outbox_id;
COMMIT;
