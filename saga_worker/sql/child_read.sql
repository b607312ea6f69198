-- Children by the range of their numbers, with the first state of those that are to be started. Index: child_pkey.
SELECT c.parent, c.seq, c.item, c.ref, c.definition, c.key, CASE WHEN v.is_start THEN c.body END AS body, v.place
FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::boolean[])
  WITH ORDINALITY AS v(parent, seq, first, last, is_start, place)
JOIN saga_worker.child AS c ON c.parent = v.parent AND c.seq = v.seq AND c.item BETWEEN v.first AND v.last
WHERE c.parent = ANY($1::uuid[])
ORDER BY v.place, c.item
