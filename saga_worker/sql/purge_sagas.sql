-- A new statement after the locks. A saga with a message still to send, or with any inbox row that is not settled,
-- stays. Its ref stays as a tombstone: a later replay of one of its rows is refused. Indexes: saga_pkey, outbox_pkey,
-- inbox_ready, inbox_parked, inbox_held, journal_pkey, activity_pkey,
-- child_pkey.
WITH leaving AS MATERIALIZED (
  SELECT s.saga_id, s.ref
  FROM saga_worker.saga AS s
  WHERE s.saga_id = ANY($1::uuid[])
    AND (s.ref IS NULL OR NOT (
          EXISTS (SELECT FROM saga_worker.outbox AS o WHERE o.ref = s.ref)
       OR EXISTS (SELECT FROM saga_worker.inbox AS i WHERE i.ref = s.ref AND i.state = 0)
       OR EXISTS (SELECT FROM saga_worker.inbox AS i WHERE i.ref = s.ref AND i.state IN (1))
       OR EXISTS (SELECT FROM saga_worker.inbox AS i WHERE i.ref = s.ref AND i.state IN (2, 5))))
), histories AS (
  DELETE FROM saga_worker.journal AS j USING leaving WHERE j.saga_id = leaving.saga_id
), activities AS (
  DELETE FROM saga_worker.activity AS a USING leaving WHERE a.ref = leaving.ref
), children AS (
  DELETE FROM saga_worker.child AS c USING leaving WHERE c.parent = leaving.ref
), wakes AS (
  DELETE FROM saga_worker.wake AS w USING leaving WHERE w.ref = leaving.ref
), tombstones AS (
  INSERT INTO saga_worker.tombstone (ref) SELECT ref FROM leaving WHERE ref IS NOT NULL ORDER BY ref
  ON CONFLICT (ref) DO UPDATE SET purged_at = excluded.purged_at
)
DELETE FROM saga_worker.saga AS s
USING leaving
WHERE s.saga_id = leaving.saga_id
