-- I2: no message stands in a journal twice, and a row is done exactly when the journal has it. Rows leave the inbox
-- before their journal does, so a journal row may have lost its inbox row; the other way round something is missing.
-- A message of that name which comes after its first row has left is another one.
-- Scans journal and inbox once each.
WITH repeated AS (
  SELECT format('%s/%s/%s applied %s times', j.consumer, j.source, j.message_id, count(*)) AS example
  FROM saga_worker.journal j
  LEFT JOIN saga_worker.inbox i ON i.id = j.inbox_id
  GROUP BY j.consumer, j.source, j.message_id
  HAVING count(*) > 1 AND (count(i.id) > 1 OR count(*) > count(DISTINCT j.inbox_id))
), unrecorded AS (
  SELECT format('inbox row %s is done, but no journal has it', i.id) AS example
  FROM saga_worker.inbox i
  LEFT JOIN saga_worker.journal j ON j.inbox_id = i.id
  WHERE i.state = 3 AND j.inbox_id IS NULL
), unsettled AS (
  SELECT format('journal of saga %s has inbox row %s, which is %s', j.saga_id, i.id, saga_worker.state_word(i.state))
           AS example
  FROM saga_worker.journal j
  JOIN saga_worker.inbox i ON i.id = j.inbox_id
  WHERE i.state <> 3
), found AS (
  SELECT example FROM repeated UNION ALL SELECT example FROM unrecorded UNION ALL SELECT example FROM unsettled
)
SELECT (SELECT count(*) FROM saga_worker.journal) AS examined,
       format('%s inputs applied', (SELECT count(*) FROM saga_worker.journal)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM found
