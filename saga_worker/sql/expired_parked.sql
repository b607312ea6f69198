-- Sagas with a parked row whose time is over; the row is settled under the saga's lock. Index: inbox_park_exp.
SELECT DISTINCT expired.ref
FROM (
  SELECT ref
  FROM saga_worker.inbox
  WHERE state = 1
    AND expires_at <= statement_timestamp()
    AND ref IS NOT NULL
  ORDER BY expires_at
  LIMIT $1::integer) AS expired
