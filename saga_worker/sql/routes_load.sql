-- Every route, the newest version of a definition last.
SELECT definition, version, type, role, key_pointer, key_kind, rev
FROM saga_worker.route
ORDER BY type, definition, version
