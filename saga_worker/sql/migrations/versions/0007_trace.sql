-- Of a message by pattern, not as JSON: a header with a NUL would make a document that PostgreSQL cannot read. A quote
-- inside of a string is escaped, so that the member is what is found.
CREATE OR REPLACE VIEW saga_worker.v_saga AS
SELECT saga_id, ref, definition AS name, definition_version, key, saga_worker.status_word(status) AS status, reason,
       attention, unsettled, saga_worker.readable_json(state) AS state, revision, started_at, updated_at, finished_at,
       NULL::uuid AS parent_id,
       substring(saga_worker.readable_json(progress) #>> '{trace,0}' FROM 4 FOR 32) AS trace_id
FROM saga_worker.saga;

CREATE OR REPLACE VIEW saga_worker.v_inbox AS
SELECT i.id, i.consumer, i.source, i.message_id, i.type, i.saga_key, s.saga_id, saga_worker.state_word(i.state) AS state,
       i.reason, i.attempts, i.crashes, i.received_at, i.next_at, i.expires_at,
       substring(convert_from(i.props, 'UTF8')
         FROM '"traceparent":"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}["-]') AS trace_id
FROM saga_worker.inbox i
LEFT JOIN saga_worker.saga s ON s.ref = i.ref;

ALTER TABLE saga_worker.activity ADD COLUMN traceparent text, ADD COLUMN tracestate text;

-- As activity_begin, which workers of an older release still fill.
CREATE TYPE saga_worker.activity_traced AS (
  ref uuid, seq integer, definition text, definition_version integer, saga_key text, step text,
  timeout_seconds double precision, runs_here boolean, input bytea, traceparent text, tracestate text);
