-- How the newest version of a definition that some worker has brought takes this type. Index: route_pkey.
SELECT key_pointer, key_kind
FROM saga_worker.route
WHERE definition = $1::text AND type = $2::text
ORDER BY version DESC
LIMIT 1
