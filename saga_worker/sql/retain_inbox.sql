-- One stretch of the inbox by primary key, from the stored cursor; what is settled and older than the window goes.
-- The lap ends where rows are too young to go. Neither a time index nor partitions: the one costs every insert, and a
-- unique key over partitions would need the day, so that one id on two days would be applied twice.
-- A range of ids, not a join with them: the planner walked the whole primary key for the join. Index: inbox_pkey.
WITH stretch AS MATERIALIZED (
  SELECT max(id) AS last_id, count(*) AS length, max(received_at) AS youngest
  FROM (
    SELECT id, received_at
    FROM saga_worker.inbox
    WHERE id > $1::bigint
    ORDER BY id
    LIMIT $3::integer) AS next_rows
), old_rows AS (
  DELETE FROM saga_worker.inbox
  WHERE id > $1::bigint
    AND id <= (SELECT last_id FROM stretch)
    AND state IN (3, 4)
    AND settled_at < statement_timestamp() - make_interval(secs => $2::double precision)
  RETURNING id
)
SELECT last_id, (SELECT count(*) FROM old_rows) AS deleted,
       length < $3::integer
         OR youngest >= statement_timestamp() - make_interval(secs => $2::double precision) AS lap_ended
FROM stretch
