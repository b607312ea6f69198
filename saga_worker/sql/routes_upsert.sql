-- New and changed routes under the next revision; unchanged ones keep theirs. Index: route_pkey.
INSERT INTO saga_worker.route AS r (definition, version, type, role, key_pointer, key_kind, rev)
SELECT v.definition, v.version, v.type, v.role, v.key_pointer, v.key_kind,
       (SELECT coalesce(max(rev), 0) + 1 FROM saga_worker.route)
FROM unnest($1::text[], $2::integer[], $3::text[], $4::smallint[], $5::text[], $6::text[])
  AS v(definition, version, type, role, key_pointer, key_kind)
ON CONFLICT (definition, version, type) DO UPDATE
SET role = excluded.role, key_pointer = excluded.key_pointer, key_kind = excluded.key_kind, rev = excluded.rev
WHERE (r.role, r.key_pointer, r.key_kind) IS DISTINCT FROM (excluded.role, excluded.key_pointer, excluded.key_kind)
