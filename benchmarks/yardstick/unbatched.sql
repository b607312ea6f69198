-- One event advances one saga by one step, in one transaction: what a worker does that takes messages one by one.
\set s random(1, :n)
BEGIN;
INSERT INTO inbox (message_id, saga_id, kind, payload) VALUES (gen_random_uuid(), saga_key(:s), 'captured', payload(:s)) ON CONFLICT DO NOTHING RETURNING id AS inbox_id \gset
SELECT status, step, version, data FROM saga WHERE id = saga_key(:s) FOR UPDATE;
UPDATE saga SET step = step + 1, version = version + 1, data = payload(:s), updated_at = now() WHERE id = saga_key(:s) RETURNING version AS v \gset
INSERT INTO saga_history (saga_id, version, kind, data) VALUES (saga_key(:s), :v, 1, payload(:s));
INSERT INTO outbox (saga_id, exchange, routing_key, message_id, payload) VALUES (saga_key(:s), 'commands', 'ship', gen_random_uuid(), payload(:s)) RETURNING id AS outbox_id \gset
UPDATE inbox SET status = 1, processed_at = now() WHERE id = :inbox_id;
DELETE FROM outbox WHERE id = :outbox_id;
COMMIT;
