-- I8: an open saga has a reason to move: a ready row, a held row (its reason says what must be lifted), an unconfirmed
-- message, an activity that is run or will be, a child that has not ended or has something to read, an armed timer that will be looked at, or its name on the attention
-- list. A paused one waits for its operator, an entity at rest for its next event.
-- An armed timer counts only if the wake row that fires it exists and is not later than the timer, give or take the
-- minute by which a timer that may not fire yet is put off.
-- And a row that is ready is applied: when the head of a saga's rows has been due for a minute, and the saga has not moved
-- in that minute either, nobody does so, whatever the worker's heartbeat says. Rows behind a head that is in back-off wait.
WITH open_saga AS (
  SELECT saga_id, ref, definition, key, status, progress FROM saga_worker.saga
  WHERE status IN (0, 1, 2) AND attention IS NULL
    AND NOT (status = 1 AND convert_from(progress, 'UTF8')::json #> '{active,idle}' IS NOT NULL
             AND convert_from(progress, 'UTF8')::json #> '{savepoints,round}' IS NOT NULL)
), earliest AS (
  SELECT o.saga_id, min((t.value ->> 0)::timestamptz) AS due_at
  FROM open_saga o
  CROSS JOIN LATERAL json_each(convert_from(o.progress, 'UTF8')::json -> 'timers') AS t
  GROUP BY o.saga_id
), head AS (
  SELECT DISTINCT ON (ref) id, ref, consumer, saga_key, greatest(received_at, next_at) AS since
  FROM saga_worker.inbox WHERE state = 0 ORDER BY ref, prio, id
), unapplied AS (
  SELECT h.id, h.ref, h.consumer, coalesce(s.key, h.saga_key) AS saga_key, greatest(h.since, s.updated_at) AS since
  FROM head h
  LEFT JOIN saga_worker.saga s ON s.ref = h.ref
  WHERE greatest(h.since, s.updated_at) < clock_timestamp() - interval '1 minute'
), stuck AS (
  SELECT format('saga %s (%s %s) is %s', o.saga_id, o.definition, o.key, saga_worker.status_word(o.status)) AS example
  FROM open_saga o
  LEFT JOIN earliest e ON e.saga_id = o.saga_id
  LEFT JOIN saga_worker.wake w ON w.ref = o.ref
  WHERE NOT coalesce(w.due_at <= greatest(e.due_at, clock_timestamp()) + interval '1 minute', false)
    AND NOT EXISTS (SELECT FROM saga_worker.outbox x WHERE x.ref = o.ref)
    AND NOT EXISTS (SELECT FROM saga_worker.activity a WHERE a.ref = o.ref AND a.state IN (0, 1))
    AND NOT EXISTS (
      SELECT FROM saga_worker.child c JOIN saga_worker.saga s ON s.ref = c.ref
      WHERE c.parent = o.ref AND s.status NOT IN (3, 4, 5))
    AND NOT EXISTS (
      SELECT FROM saga_worker.child c JOIN saga_worker.inbox i ON i.ref = c.ref WHERE c.parent = o.ref AND i.state = 0)
    AND NOT EXISTS (SELECT FROM saga_worker.inbox i WHERE i.ref = o.ref AND i.state = 0)
    AND NOT EXISTS (SELECT FROM saga_worker.inbox i WHERE i.ref = o.ref AND i.state IN (2, 5) AND i.state = 2)
  UNION ALL
  SELECT format('saga %s %s: row %s is ready for %s s and nobody applies it', u.consumer, coalesce(u.saga_key, u.ref::text),
                u.id, floor(extract(epoch FROM clock_timestamp() - u.since)))
  FROM unapplied u
)
SELECT (SELECT count(*) FROM open_saga) AS examined,
       format('%s open sagas, %s on the attention list', (SELECT count(*) FROM saga_worker.saga WHERE status IN (0, 1, 2)),
              (SELECT count(*) FROM saga_worker.saga WHERE attention IS NOT NULL)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM stuck
