-- Guarded: a row whose revision is not the one that was locked is not written, and the count tells. Index: saga_pkey.
-- Only saga_attention and saga_finished_at name columns written here, and those seldom change: updates stay HOT.
UPDATE saga_worker.saga AS s
SET definition_version = v.definition_version, status = v.status, revision = v.revision, seq = v.seq,
    unsettled = v.unsettled, attention = v.attention, reason = v.reason, state = v.state, progress = v.progress,
    updated_at = v.updated_at, finished_at = v.finished_at
FROM unnest($1::saga_worker.saga_update[]) AS v
WHERE s.saga_id = v.saga_id
  AND s.saga_id = ANY($2::uuid[])
  AND s.revision = v.locked_revision
