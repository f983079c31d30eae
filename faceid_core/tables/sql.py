"""The DuckDB connection through which the tables are asked, and which statements may be asked of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from fsspec import AbstractFileSystem

PROTOCOL = "faceid"

# A statement's type alone does not tell what it reads or writes (a common table expression may be a COPY), so the
# engine itself is cut off: from files, network and extensions, from the caller's Python variables, and from a folder
# for what exceeds memory, which would hold rows of people.
_LOCKED: dict[str, str | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}
# After the start, in this order: what is allowed must be said before access ends. Only the registered file system has
# files of this address, and it writes none.
_CLOSED = (
    f"SET allowed_directories = ['{PROTOCOL}://']",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_NO_FORMAT = re.compile(r"\b(INTERVAL|UNION|BIT|BIGNUM|VARINT)\b")
_READING = ("SELECT", "EXPLAIN")
_ASKS_FOR_ALL = re.compile(
    r"\bshow\b|\bquery(_table)?\s*\(|duckdb_|information_schema|sqlite_master|\bpg_", re.IGNORECASE
)


def open_connection(*, locked: bool, files: AbstractFileSystem | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in memory; a locked one reaches nothing but what is registered with it.

    Args:
        locked: nothing is found in the process and on the network; `lock` ends the preparation of such a connection.
        files: a file system with the tables' files.
    """
    import duckdb

    connection = duckdb.connect(config=_LOCKED if locked else {})
    # Data files never change; a view of views would read their footers once for each.
    connection.execute("SET parquet_metadata_cache = true")
    # Instants are shown in the contract's timezone, wherever the question is asked.
    connection.execute("SET TimeZone = 'UTC'")
    if files is not None:
        connection.register_filesystem(files)
    return connection


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """End the access to files, the network and settings."""
    for statement in _CLOSED:
        connection.execute(statement)


def names_in(sql: str, names: Iterable[str]) -> set[str]:
    """Those of some names that a query may mean: all of them where it may ask for tables without naming them."""
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    return set(names) if _ASKS_FOR_ALL.search(sql) else words & set(names)


def arrow_of(relation: duckdb.DuckDBPyRelation) -> pa.Table:
    """The rows of a query; types that neither Parquet nor Python has (intervals, unions, bits, big numbers) as text."""
    is_odd = [_NO_FORMAT.search(str(kind)) is not None for kind in relation.types]
    if not any(is_odd):
        return relation.to_arrow_table()
    columns = []
    for place, (name, odd) in enumerate(zip(relation.columns, is_odd, strict=True), 1):
        quoted = name.replace('"', '""')
        columns.append(f'#{place}{"::VARCHAR" if odd else ""} AS "{quoted}"')
    return relation.project(", ".join(columns)).to_arrow_table()


def require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse SQL that holds anything but statements that read.

    Raises:
        ConfigurationError: it is empty, or a statement is neither a SELECT nor an EXPLAIN of one.
        duckdb.Error: it is no SQL.
    """
    kinds = _kinds(connection, sql)
    if not kinds:
        raise ConfigurationError("the query is empty; give a SELECT statement")
    for kind in kinds:
        if kind == "MULTI":
            raise ConfigurationError(
                "PIVOT makes a type before it reads, unless its values are named; write PIVOT ... ON ... IN (...), or "
                "GROUP BY with FILTER (WHERE ...)"
            )
        if kind not in _READING:
            raise ConfigurationError(
                "only statements that read are run (SELECT, WITH, FROM, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN), not "
                f"{kind}; `faceid query --unlocked`, or Tables.connect(locked=False) in Python, runs everything"
            )


def _kinds(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """The types of the statements, those behind an EXPLAIN among them: EXPLAIN ANALYZE runs its statement."""
    try:
        statements = connection.extract_statements(sql)
        found = [(statement.type.name, statement.query) for statement in statements]
    except ValueError:
        # Kinds of statement that the Python package has no name for.
        return ["that"]
    kinds = []
    for kind, text in found:
        kinds += _explained_kinds(connection, text) if kind == "EXPLAIN" else [kind]
    return kinds


def _explained_kinds(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    import duckdb

    try:
        return _kinds(connection, _explained(text)) or ["EXPLAIN"]
    except duckdb.ParserException:
        # The whole was parsed, so what is left is part of a statement in parentheses; only a SELECT may stand in them.
        return ["EXPLAIN"]


def _explained(text: str) -> str:
    """What follows EXPLAIN, ANALYZE and the options in parentheses; empty for a SELECT in parentheses."""
    import duckdb

    tokens = [at for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    whole, depth = text.encode(), 0  # tokens begin at bytes, not at characters
    for at in tokens[1:]:
        sign = whole[at : at + 1]
        depth += {b"(": 1, b")": -1}.get(sign, 0)
        is_option = depth > 0 or sign == b")"
        if not is_option and whole[at : at + 7].lower() not in (b"analyze", b"analyse"):
            return whole[at:].decode()
    return ""
