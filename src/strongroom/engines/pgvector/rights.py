"""Who may do what with the tables, and which types of the database's own do they use? Noted, for a person to make them again."""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.engines.pgvector.catalog import Table
from strongroom.engines.pgvector.server import Connection
from strongroom.model import Json

_ROLES = """
SELECT coalesce(json_agg(json_build_object('name', r.rolname, 'superuser', r.rolsuper, 'login', r.rolcanlogin,
    'inherit', r.rolinherit, 'create_role', r.rolcreaterole, 'create_database', r.rolcreatedb, 'replication', r.rolreplication,
    'bypass_policies', r.rolbypassrls, 'member_of', coalesce((SELECT json_agg(DISTINCT g.rolname)
        FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), '[]'))
    ORDER BY r.rolname), '[]')
FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'
"""
_GRANT = """json_build_object('role', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(x.grantee) END,
    'privilege', x.privilege_type, 'may_grant', x.is_grantable{more}) ORDER BY {order}x.grantee, x.privilege_type"""
_TABLES = f"""
SELECT c.oid::int8, json_build_object('owner', pg_catalog.pg_get_userbyid(c.relowner),
    'grants', coalesce((SELECT json_agg({_GRANT.format(more="", order="")}) FROM pg_catalog.aclexplode(c.relacl) x), '[]'),
    'column_grants', coalesce((SELECT json_agg({_GRANT.format(more=", 'column', a.attname", order="a.attnum, ")})
        FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x WHERE a.attrelid = c.oid AND NOT a.attisdropped), '[]'))
FROM pg_catalog.pg_class c WHERE c.oid = ANY(%s)
"""
_TYPES = """
SELECT coalesce(json_agg(json_build_object('schema', n.nspname, 'name', t.typname, 'kind', t.typtype::text, 'labels', labels.found,
    'type', CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END, 'not_null', t.typnotnull,
    'default', t.typdefault, 'constraints', limits.found) ORDER BY n.nspname, t.typname), '[]')
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace,
    LATERAL (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) AS found FROM pg_catalog.pg_enum e
             WHERE e.enumtypid = t.oid) AS labels,
    LATERAL (SELECT json_agg(pg_catalog.pg_get_constraintdef(o.oid) ORDER BY o.conname) AS found FROM pg_catalog.pg_constraint o
             WHERE o.contypid = t.oid) AS limits
WHERE t.typtype IN ('e', 'd') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND t.oid IN (
    SELECT CASE WHEN u.typelem <> 0 AND u.typcategory = 'A' THEN u.typelem ELSE u.oid END
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type u ON u.oid = a.atttypid
    WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped)
"""


def described(connection: Connection, tables: Sequence[Table]) -> dict[str, Json]:
    """All roles, but not their passwords; of each table its owner and what was granted; enums and domains of columns."""
    oids = [one.oid for one in tables]
    rights: dict[int, Json] = dict(connection.execute(_TABLES.encode(), (oids,)).fetchall())
    return {
        "roles": connection.execute(_ROLES.encode()).fetchall()[0][0],
        "rights": {one.collection: rights[one.oid] for one in tables},
        "types": connection.execute(_TYPES.encode(), (oids,)).fetchall()[0][0],
    }
