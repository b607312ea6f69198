-- Where the last pass of a sweep ended. The row is there from the migration on: no row means that another worker is at
-- it, and nobody waits. (Inserting it here would: ON CONFLICT waits for whoever is just updating the row.)
SELECT position
FROM saga_worker.sweep_cursor
WHERE name = $1::text
FOR NO KEY UPDATE SKIP LOCKED
