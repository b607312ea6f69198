-- One row per applied input.
INSERT INTO saga_worker.journal (
  saga_id, revision, definition_version, input_kind, consumer, source, message_id, inbox_id, decided_at,
  from_status, to_status, sent, timers, epoch, worker, ref)
SELECT v.saga_id, v.revision, v.definition_version, v.input_kind, v.consumer, v.source, v.message_id, v.inbox_id,
       v.decided_at, v.from_status, v.to_status, v.sent, v.timers, v.epoch, $2::integer, v.ref
FROM unnest($1::saga_worker.journal_insert[]) AS v
