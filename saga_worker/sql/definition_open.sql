-- How many sagas of a version are open or not settled, up to $3 of them. Asked only when its structure has changed.
SELECT count(*)
FROM (
  SELECT
  FROM saga_worker.saga
  WHERE definition = $1::text
    AND definition_version = $2::integer
    AND (finished_at IS NULL OR unsettled > 0)
  LIMIT $3::integer) AS found
