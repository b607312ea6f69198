-- The children that sagas have asked for: one row each, also for items that wait until there is room for them. `item` is
-- 0 for an only child, else its number from 1. A row stays as long as its parent, and so does the child itself: until
-- then its parent may want it to be taken back.
CREATE TABLE saga_worker.child (
  parent uuid NOT NULL,
  seq integer NOT NULL,
  item integer NOT NULL,
  ref uuid NOT NULL,
  definition text NOT NULL,
  key text NOT NULL,
  body bytea,
  CONSTRAINT child_pkey PRIMARY KEY (parent, seq, item),
  CONSTRAINT child_counts CHECK (seq >= 1 AND item >= 0)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX child_ref ON saga_worker.child (ref);

CREATE TYPE saga_worker.child_insert AS (
  parent uuid, seq integer, item integer, ref uuid, definition text, key text, body bytea);

CREATE OR REPLACE VIEW saga_worker.v_saga AS
SELECT s.saga_id, s.ref, s.definition AS name, s.definition_version, s.key, saga_worker.status_word(s.status) AS status,
       s.reason, s.attention, s.unsettled, saga_worker.readable_json(s.state) AS state, s.revision, s.started_at,
       s.updated_at, s.finished_at,
       (SELECT p.saga_id FROM saga_worker.child c JOIN saga_worker.saga p ON p.ref = c.parent WHERE c.ref = s.ref LIMIT 1)
         AS parent_id,
       substring(saga_worker.readable_json(s.progress) #>> '{trace,0}' FROM 4 FOR 32) AS trace_id
FROM saga_worker.saga s
