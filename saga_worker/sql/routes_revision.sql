-- Rises with every change; a consumer whose copy is older reads the routes again. Index: route_rev.
SELECT coalesce(max(rev), 0)
FROM saga_worker.route
