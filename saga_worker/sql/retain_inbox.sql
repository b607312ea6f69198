-- One stretch of the inbox by primary key, from the stored cursor; what is settled and older than the window goes.
-- The lap ends where rows are too young to go. Neither a time index nor partitions: the one costs every insert, and a
-- unique key over partitions would need the day, so that one id on two days would be applied twice. Index: inbox_pkey.
WITH stretch AS MATERIALIZED (
  SELECT id, state, settled_at, received_at
  FROM saga_worker.inbox
  WHERE id > $1::bigint
  ORDER BY id
  LIMIT $3::integer
), old_rows AS (
  DELETE FROM saga_worker.inbox AS i
  USING stretch
  WHERE i.id = stretch.id
    AND i.state IN (3, 4)
    AND i.settled_at < statement_timestamp() - make_interval(secs => $2::double precision)
  RETURNING i.id
)
SELECT (SELECT count(*) FROM old_rows) AS deleted,
       (SELECT max(id) FROM stretch) AS last_id,
       (SELECT count(*) FROM stretch) < $3::integer
         OR (SELECT max(received_at) FROM stretch)
            >= statement_timestamp() - make_interval(secs => $2::double precision) AS lap_ended
