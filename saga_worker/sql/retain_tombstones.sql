-- Memories of purged sagas, kept while a dead letter of theirs might be replayed. Indexes: tombstone_purged_at, inbox_held.
DELETE FROM saga_worker.tombstone
WHERE ref = ANY(ARRAY(
  SELECT t.ref
  FROM saga_worker.tombstone AS t
  WHERE t.purged_at < statement_timestamp() - make_interval(secs => $1::double precision)
    AND NOT EXISTS (SELECT FROM saga_worker.inbox AS i WHERE i.ref = t.ref AND i.state IN (2, 5))
  ORDER BY t.purged_at
  LIMIT $2::integer
  FOR UPDATE SKIP LOCKED))
