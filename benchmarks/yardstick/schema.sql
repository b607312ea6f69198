-- The least a saga worker has to keep: sagas, their history, an inbox and an outbox. N sagas stand ready (-v n=…).
SET client_min_messages = warning;
DROP TABLE IF EXISTS saga, saga_history, inbox, outbox CASCADE;
DROP FUNCTION IF EXISTS saga_key(bigint), payload(bigint);
CREATE FUNCTION saga_key(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
  $$ SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;
-- 300 bytes of JSON, another document for every row, parsed by the server as a client's would be
CREATE FUNCTION payload(n bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
  $$ SELECT ('{"saga": ' || n || ', "type": "payment.captured", "currency": "EUR", "pad": "' || repeat('x', 230) || '"}')::jsonb $$;
CREATE TABLE saga (
  id uuid PRIMARY KEY, name text NOT NULL, status smallint NOT NULL DEFAULT 0, step int NOT NULL DEFAULT 0,
  version int NOT NULL DEFAULT 0, data jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 70);
CREATE TABLE saga_history (
  saga_id uuid NOT NULL, version int NOT NULL, kind smallint NOT NULL, data jsonb, at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (saga_id, version));
CREATE TABLE inbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id uuid NOT NULL UNIQUE, saga_id uuid NOT NULL,
  kind text NOT NULL, payload jsonb NOT NULL, status smallint NOT NULL DEFAULT 0,
  received_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz);
CREATE INDEX inbox_pending ON inbox (id) WHERE status = 0;
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, saga_id uuid NOT NULL, exchange text NOT NULL,
  routing_key text NOT NULL, message_id uuid NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO saga (id, name, data) SELECT saga_key(i), 'order', payload(i) FROM generate_series(1, :n) i;
VACUUM ANALYZE saga;
CHECKPOINT;
