"""Which queries describe a table? They give one JSON value, so that the server can note in its log what a table became, in the
very transaction that changed it, in the words in which a snapshot describes it."""

from __future__ import annotations

TABLES = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""
_TABLE = """
SELECT json_build_array(c.oid::int8, n.nspname, c.relname, EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid),
    c.relpersistence::text, c.reloptions,
    (SELECT x.nspname FROM pg_extension e JOIN pg_namespace x ON x.oid = e.extnamespace WHERE e.extname = 'vector'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}
"""
_COLUMNS = """
SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.atttypmod, tn.nspname, o.proname,
    po.nspname, a.attnotnull, a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid),
    CASE WHEN a.attcollation <> t.typcollation THEN l.collname END,
    CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END) ORDER BY a.attnum)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
JOIN pg_proc o ON o.oid = t.typoutput JOIN pg_namespace po ON po.oid = o.pronamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped
"""
_INDEXES = """
SELECT json_agg(json_build_array(x.relname, i.indisprimary, i.indisvalid, m.amname, pg_get_indexdef(i.indexrelid, 0, true),
    pg_get_indexdef(i.indexrelid, 1, true), p.opcname, x.reloptions,
    (SELECT array_agg(a.attname ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY k(num, place)
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE k.place <= i.indnkeyatts),
    EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')),
    i.indisunique) ORDER BY x.relname)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
JOIN pg_opclass p ON p.oid = i.indclass[0]
WHERE i.indrelid = {oid} AND i.indislive
"""
_CONSTRAINTS = """
SELECT json_agg(json_build_array(conname, contype::text, pg_get_constraintdef(oid, true)) ORDER BY contype <> 'p', conname)
FROM pg_constraint WHERE conrelid = {oid} AND contype IN ('p', 'u', 'c', 'x', 'f')
"""
_SEQUENCES = """
SELECT json_agg(json_build_object('column', a.attname, 'name', s.relname, 'type', format_type(q.seqtypid, NULL),
    'start', q.seqstart, 'increment', q.seqincrement, 'min', q.seqmin, 'max', q.seqmax, 'cache', q.seqcache, 'cycle', q.seqcycle,
    'readable', has_sequence_privilege(s.oid, 'USAGE, SELECT'),
    'last_value', CASE WHEN has_sequence_privilege(s.oid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.oid::regclass) END)
    ORDER BY a.attnum)
FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.refobjid = {oid} AND d.refobjsubid > 0 AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
"""
_PARTS = {"table": _TABLE, "columns": _COLUMNS, "indexes": _INDEXES, "constraints": _CONSTRAINTS, "sequences": _SEQUENCES}


def description(oid: str) -> str:
    """A query for the JSON that describes the table whose number the SQL expression `oid` gives. With a search path of the table's
    schema and the extension's, so that names are written without these."""
    parts = ", ".join(f"'{name}', ({query.format(oid=oid).strip()})" for name, query in _PARTS.items())
    return f"SELECT json_build_object({parts})"
