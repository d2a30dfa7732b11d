"""Insert many rows at once, past the slower ways of SQLAlchemy and of the driver."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from tunetrail.stores.tables import Base

# Rows of one statement of SQLite.
_MOST_ROWS = 2048
# Parameters that a statement may have in SQLite, from 3.32 on.
_MOST_PARAMETERS = 32_766
# SQLAlchemy otherwise doesn't keep the row count of an insert.
_KEEP_ROW_COUNT = {"preserve_rowcount": True}


def insert_missing(
    connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]], **constant: Any
) -> int:
    """Insert the rows whose unique key isn't there yet, and return how many were inserted.

    SQLAlchemy's own way from a row to the driver takes longer than SQLite needs to store it. So
    the values of rows go to the driver as they are.

    Args:
        connection: Is in a transaction.
        table: The table.
        rows: Values by column, all with the same columns: JSON as text, no moments.
        constant: Values that are the same in all rows, of any type.
    """
    if not rows:
        return 0
    dialect = connection.dialect
    # Imported here: the dialects take a quarter of a second, also of commands that only read.
    if dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    # A conflict means that this row was stored before, or by another process just now.
    statement = insert(table).on_conflict_do_nothing()
    names = [*rows[0], *constant]
    compiled = statement.compile(dialect=dialect, column_keys=names)

    values: dict[str, Iterator[Any]] = {name: map(itemgetter(name), rows) for name in rows[0]}
    for name, value in constant.items():
        column_type = table.__table__.columns[name].type.dialect_impl(dialect)
        convert = column_type.bind_processor(dialect)
        values[name] = repeat(convert(value) if convert else value, len(rows))

    # Parameters have a position in SQLite's statements, and a name in PostgreSQL's.
    if compiled.positiontup is not None:
        columns = [values[name] for name in compiled.positiontup]
        return _insert_by_position(connection, str(compiled), len(rows), columns)
    parameters = [dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)]
    result = connection.exec_driver_sql(
        str(compiled), parameters, execution_options=_KEEP_ROW_COUNT
    )
    return result.rowcount


def _insert_by_position(
    connection: Connection, statement: str, rows: int, columns: Sequence[Iterator[Any]]
) -> int:
    """Insert rows with statements of many rows each, and return how many were inserted.

    Python's `executemany` takes the interpreter back from other threads for each row. A statement
    of many rows leaves it to them until the last one is stored.

    Args:
        connection: Is in a transaction.
        statement: Inserts one row.
        rows: The number of rows.
        columns: The values of each parameter of the statement.
    """
    placeholders = f"({', '.join('?' * len(columns))})"
    parameters = chain.from_iterable(zip(*columns, strict=True))
    most_rows = min(_MOST_ROWS, _MOST_PARAMETERS // len(columns))

    inserted = 0
    while rows:
        # Powers of two: the driver keeps a dozen prepared statements, not one for each number.
        size = 1 << (min(rows, most_rows).bit_length() - 1)
        many_rows = statement.replace(placeholders, ", ".join(repeat(placeholders, size)))
        values = tuple(islice(parameters, size * len(columns)))
        result = connection.exec_driver_sql(many_rows, values, execution_options=_KEEP_ROW_COUNT)
        inserted += result.rowcount
        rows -= size
    return inserted
