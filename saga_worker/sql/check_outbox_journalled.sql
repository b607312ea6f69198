-- I4: nothing is published that no step committed: each outbox row's number stands in a journal row of its saga, or of
-- an earlier run of its key, which had the same ref.
WITH invented AS (
  SELECT format('outbox row %s (%s)', saga_worker.command_id(o.ref, o.seq), o.type) AS example
  FROM saga_worker.outbox o
  LEFT JOIN saga_worker.saga s ON s.ref = o.ref
  WHERE NOT EXISTS (SELECT FROM saga_worker.journal j WHERE j.saga_id = s.saga_id AND o.seq = ANY (j.sent))
    AND NOT EXISTS (
      SELECT FROM saga_worker.saga r
      JOIN saga_worker.journal j ON j.saga_id = r.saga_id
      WHERE r.ref IS NULL AND r.definition = s.definition AND r.key = s.key AND o.seq = ANY (j.sent))
)
SELECT (SELECT count(*) FROM saga_worker.outbox) AS examined,
       format('%s messages unconfirmed', (SELECT count(*) FROM saga_worker.outbox)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM invented
