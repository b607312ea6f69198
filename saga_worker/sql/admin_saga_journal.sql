-- The newest $2 journal rows of a saga, oldest first. Relies on the primary key of journal.
SELECT newest.revision, newest.definition_version, newest.input_kind, newest.source, newest.message_id,
       newest.decided_at, newest.from_status, newest.to_status, newest.sent_ids, newest.timer_ids, newest.worker,
       newest.committed_at
FROM (
  SELECT revision, definition_version, input_kind, source, message_id, decided_at, from_status, to_status, sent_ids,
         timer_ids, worker, committed_at
  FROM saga_worker.v_journal
  WHERE saga_id = $1::uuid
  ORDER BY revision DESC
  LIMIT $2::integer
) AS newest
ORDER BY newest.revision
