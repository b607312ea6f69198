-- One row per applied input. Arrays of different lengths cannot be nested in a parameter, hence the joined texts.
INSERT INTO saga_worker.journal (
  saga_id, revision, definition_version, input_kind, consumer, source, message_id, inbox_id, decided_at,
  from_status, to_status, sent, timers, epoch, worker, ref)
SELECT v.saga_id, v.revision, v.definition_version, v.input_kind, v.consumer, v.source, v.message_id, v.inbox_id,
       v.decided_at, v.from_status, v.to_status, string_to_array(v.sent, ',')::integer[],
       string_to_array(v.timers, E'\x1e'), v.epoch, $15::integer, v.ref
FROM unnest(
  $1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
  $9::timestamptz[], $10::smallint[], $11::smallint[], $12::text[], $13::text[], $14::integer[], $16::uuid[])
  AS v(saga_id, revision, definition_version, input_kind, consumer, source, message_id, inbox_id, decided_at,
       from_status, to_status, sent, timers, epoch, ref)
