-- Children that a commit asks for. Index: child_pkey.
INSERT INTO saga_worker.child (parent, seq, item, ref, definition, key, body)
SELECT parent, seq, item, ref, definition, key, body
FROM unnest($1::saga_worker.child_insert[])
