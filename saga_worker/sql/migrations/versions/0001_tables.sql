CREATE FUNCTION saga_worker.readable_json(raw bytea) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN convert_from(raw, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  RETURN NULL;
END $$;

CREATE TABLE saga_worker.saga (
  saga_id uuid NOT NULL,
  ref uuid,
  definition text NOT NULL,
  definition_version integer NOT NULL,
  key text NOT NULL,
  status smallint NOT NULL,
  revision integer NOT NULL,
  seq integer NOT NULL,
  unsettled smallint NOT NULL,
  attention text,
  reason text,
  state bytea NOT NULL,
  progress bytea NOT NULL,
  started_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  finished_at timestamptz,
  CONSTRAINT saga_pkey PRIMARY KEY (saga_id),
  CONSTRAINT saga_ref_key UNIQUE (ref),
  CONSTRAINT saga_status CHECK (status BETWEEN 0 AND 6),
  CONSTRAINT saga_finished CHECK ((finished_at IS NOT NULL) = (status IN (3, 4, 5))),
  CONSTRAINT saga_counts CHECK (revision >= 1 AND seq >= 0 AND unsettled >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX saga_attention ON saga_worker.saga (attention) WHERE attention IS NOT NULL;

CREATE INDEX saga_finished_at ON saga_worker.saga (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE saga_worker.tombstone (
  ref uuid NOT NULL,
  purged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT tombstone_pkey PRIMARY KEY (ref)
);

CREATE INDEX tombstone_purged_at ON saga_worker.tombstone (purged_at);

CREATE TABLE saga_worker.inbox (
  id bigint GENERATED ALWAYS AS IDENTITY,
  dedup uuid NOT NULL,
  body_sha bytea NOT NULL,
  consumer text NOT NULL,
  source text NOT NULL,
  message_id text NOT NULL,
  type text NOT NULL,
  role smallint NOT NULL,
  ref uuid,
  saga_key text,
  correlation_id text,
  state smallint NOT NULL,
  reason text,
  error text,
  suspect boolean NOT NULL DEFAULT false,
  prio smallint NOT NULL DEFAULT 1,
  attempts smallint NOT NULL DEFAULT 0,
  crashes smallint NOT NULL DEFAULT 0,
  first_failed_at timestamptz,
  last_failed_at timestamptz,
  settled_at timestamptz,
  next_at timestamptz,
  expires_at timestamptz,
  received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  props bytea NOT NULL,
  body bytea NOT NULL,
  CONSTRAINT inbox_pkey PRIMARY KEY (id),
  CONSTRAINT inbox_dedup_key UNIQUE (dedup),
  CONSTRAINT inbox_role CHECK (role BETWEEN 0 AND 3),
  CONSTRAINT inbox_state CHECK (state BETWEEN 0 AND 5),
  CONSTRAINT inbox_prio CHECK (prio IN (0, 1)),
  CONSTRAINT inbox_settled CHECK ((settled_at IS NOT NULL) = (state IN (3, 4))),
  CONSTRAINT inbox_reason CHECK (reason IS NOT NULL OR state NOT IN (1, 2, 4, 5)),
  CONSTRAINT inbox_ref CHECK (ref IS NOT NULL OR state IN (1, 4, 5)),
  CONSTRAINT inbox_counts CHECK (attempts >= 0 AND crashes >= 0)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
        autovacuum_vacuum_cost_delay = 0);

CREATE INDEX inbox_ready ON saga_worker.inbox (ref, prio, id) WHERE state = 0;

CREATE INDEX inbox_parked ON saga_worker.inbox (ref, id) WHERE state IN (1);

CREATE INDEX inbox_park_exp ON saga_worker.inbox (expires_at) WHERE state = 1;

CREATE INDEX inbox_held ON saga_worker.inbox (ref, id) WHERE state IN (2, 5);

CREATE INDEX inbox_absent ON saga_worker.inbox (ref) WHERE state = 2 AND reason = 'definition_absent';

CREATE TABLE saga_worker.wake (
  ref uuid NOT NULL,
  due_at timestamptz NOT NULL,
  CONSTRAINT wake_pkey PRIMARY KEY (ref)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

CREATE INDEX wake_due ON saga_worker.wake (due_at);

CREATE TABLE saga_worker.worker (
  worker_id integer GENERATED ALWAYS AS IDENTITY,
  lease_until timestamptz NOT NULL,
  definitions text[] NOT NULL,
  caught_up_at timestamptz,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  host text NOT NULL,
  pid integer NOT NULL,
  CONSTRAINT worker_pkey PRIMARY KEY (worker_id)
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE saga_worker.intent (
  worker_id integer NOT NULL,
  slot smallint NOT NULL,
  ids bigint[] NOT NULL,
  CONSTRAINT intent_pkey PRIMARY KEY (worker_id, slot)
) WITH (fillfactor = 50);

CREATE TABLE saga_worker.outbox (
  ref uuid NOT NULL,
  seq integer NOT NULL,
  owner integer NOT NULL,
  destination text NOT NULL,
  type text NOT NULL,
  exchange text NOT NULL,
  routing_key text NOT NULL,
  mandatory boolean NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz,
  last_error text,
  props bytea NOT NULL,
  body bytea NOT NULL,
  CONSTRAINT outbox_pkey PRIMARY KEY (ref, seq),
  CONSTRAINT outbox_counts CHECK (owner >= 0 AND seq >= 0 AND attempts >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

CREATE TABLE saga_worker.journal (
  saga_id uuid NOT NULL,
  revision integer NOT NULL,
  definition_version integer NOT NULL,
  input_kind text NOT NULL,
  consumer text NOT NULL,
  source text NOT NULL,
  message_id text NOT NULL,
  inbox_id bigint,
  decided_at timestamptz NOT NULL,
  from_status smallint,
  to_status smallint NOT NULL,
  sent integer[] NOT NULL,
  timers text[] NOT NULL,
  epoch integer NOT NULL,
  worker integer NOT NULL,
  ref uuid NOT NULL,
  committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT journal_pkey PRIMARY KEY (saga_id, revision),
  CONSTRAINT journal_statuses CHECK (from_status BETWEEN 0 AND 6 AND to_status BETWEEN 0 AND 6),
  CONSTRAINT journal_chain CHECK (revision >= 1 AND epoch >= 0 AND epoch < revision)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE TABLE saga_worker.route (
  definition text NOT NULL,
  version integer NOT NULL,
  type text NOT NULL,
  role smallint NOT NULL,
  key_pointer text NOT NULL,
  key_kind text NOT NULL,
  rev bigint NOT NULL,
  CONSTRAINT route_pkey PRIMARY KEY (definition, version, type),
  CONSTRAINT route_role CHECK (role BETWEEN 0 AND 3),
  CONSTRAINT route_key_kind CHECK (key_kind IN ('text', 'int', 'uuid'))
);

CREATE INDEX route_rev ON saga_worker.route (rev);

CREATE TABLE saga_worker.sweep_cursor (
  name text NOT NULL,
  position bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT sweep_cursor_pkey PRIMARY KEY (name)
);

INSERT INTO saga_worker.sweep_cursor (name, position) VALUES ('inbox_retention', 0);

CREATE TABLE saga_worker.audit (
  id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  action text NOT NULL,
  target text NOT NULL,
  reason text,
  before jsonb,
  after jsonb,
  CONSTRAINT audit_pkey PRIMARY KEY (id)
);
