-- Routes of a version that nothing runs any more. Index: route_pkey.
DELETE FROM saga_worker.route
WHERE definition = $1::text
  AND version = ANY($2::integer[])
