-- state: 0 ready 1 running 3 given up (its outcome is unknown) 4 cancelled. A finished one is deleted: its result is an
-- inbox row. `epoch` fences: every writer names the one it was given. `worker_id` and `timeout_at` of a cancelled one
-- say that an attempt may still be running. `uncertain`: of some attempt nobody knows how it ended.
CREATE TABLE saga_worker.activity (
  ref uuid NOT NULL,
  seq integer NOT NULL,
  run integer NOT NULL,
  undoes integer,
  definition text NOT NULL,
  definition_version integer NOT NULL,
  saga_key text NOT NULL,
  step text NOT NULL,
  state smallint NOT NULL,
  epoch integer NOT NULL,
  attempts integer NOT NULL,
  uncertain boolean NOT NULL DEFAULT false,
  worker_id integer,
  next_at timestamptz NOT NULL,
  timeout_at timestamptz,
  timeout_seconds double precision NOT NULL,
  last_error text,
  input bytea NOT NULL,
  CONSTRAINT activity_pkey PRIMARY KEY (ref, seq),
  CONSTRAINT activity_state CHECK (state IN (0, 1, 3, 4)),
  CONSTRAINT activity_running CHECK (state <> 1 OR (worker_id IS NOT NULL AND timeout_at IS NOT NULL)),
  CONSTRAINT activity_counts CHECK (seq >= 1 AND run >= 1 AND epoch >= 1 AND attempts >= 0 AND timeout_seconds > 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

CREATE INDEX activity_ready ON saga_worker.activity (next_at, ref, seq) WHERE state = 0;

CREATE INDEX activity_worker ON saga_worker.activity (worker_id) WHERE state = 1;

ALTER TABLE saga_worker.inbox DROP CONSTRAINT inbox_role,
  ADD CONSTRAINT inbox_role CHECK (role BETWEEN 0 AND 4);

CREATE VIEW saga_worker.v_activity AS
SELECT saga_worker.command_id(a.ref, a.seq) AS activity_id, s.saga_id, a.seq, a.undoes, a.definition AS name, a.step,
       (ARRAY['ready', 'running', 'finished', 'given_up', 'cancelled'])[a.state + 1] AS state, a.epoch, a.attempts,
       a.worker_id AS worker, a.next_at, a.timeout_at, a.last_error
FROM saga_worker.activity a
LEFT JOIN saga_worker.saga s ON s.ref = a.ref
