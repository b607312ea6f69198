CREATE FUNCTION saga_worker.status_word(status smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (ARRAY['running', 'waiting', 'compensating', 'completed', 'compensated', 'failed', 'paused'])[status + 1]
$$;

CREATE FUNCTION saga_worker.state_word(state smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (ARRAY['ready', 'parked', 'held', 'done', 'ignored', 'dead'])[state + 1]
$$;

CREATE FUNCTION saga_worker.command_id(ref uuid, seq integer) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT translate(rtrim(encode(uuid_send(ref), 'base64'), '='), '+/', '-_') || '.' || seq
$$;

CREATE VIEW saga_worker.v_saga AS
SELECT saga_id, ref, definition AS name, definition_version, key, saga_worker.status_word(status) AS status, reason,
       attention, unsettled, saga_worker.readable_json(state) AS state, revision, started_at, updated_at, finished_at,
       NULL::uuid AS parent_id
FROM saga_worker.saga;

CREATE VIEW saga_worker.v_journal AS
SELECT saga_id, revision, definition_version, input_kind, consumer, source, message_id, decided_at,
       saga_worker.status_word(from_status) AS from_status, saga_worker.status_word(to_status) AS to_status,
       ARRAY(SELECT saga_worker.command_id(ref, n.seq) FROM unnest(sent) WITH ORDINALITY AS n(seq, place) ORDER BY n.place)
         AS sent_ids,
       timers AS timer_ids, epoch, worker, committed_at
FROM saga_worker.journal;

CREATE VIEW saga_worker.v_inbox AS
SELECT i.id, i.consumer, i.source, i.message_id, i.type, i.saga_key, s.saga_id, saga_worker.state_word(i.state) AS state,
       i.reason, i.attempts, i.crashes, i.received_at, i.next_at, i.expires_at
FROM saga_worker.inbox i
LEFT JOIN saga_worker.saga s ON s.ref = i.ref;

CREATE VIEW saga_worker.v_outbox AS
SELECT saga_worker.command_id(o.ref, o.seq) AS message_id, s.saga_id, o.seq, o.destination, o.type, o.owner, o.attempts,
       o.next_at, o.last_error
FROM saga_worker.outbox o
LEFT JOIN saga_worker.saga s ON s.ref = o.ref;

CREATE VIEW saga_worker.v_timer AS
SELECT s.saga_id, t.key AS name, (t.value ->> 1)::integer AS epoch, (t.value ->> 0)::timestamptz AS due_at
FROM saga_worker.saga s
CROSS JOIN LATERAL json_each(convert_from(s.progress, 'UTF8')::json -> 'timers') AS t;

CREATE VIEW saga_worker.v_dead AS
SELECT id, consumer, source, message_id, type, saga_key, reason, error, attempts, first_failed_at, last_failed_at
FROM saga_worker.inbox
WHERE state = 5;

CREATE VIEW saga_worker.v_audit AS
SELECT at, actor, action, target, reason, before, after
FROM saga_worker.audit;
