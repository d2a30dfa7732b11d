"""Insert many rows at once, past the slower ways of SQLAlchemy and of the driver."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, count, repeat
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql.compiler import SQLCompiler

from tunetrail.stores.database.tables import Base

# Rows of one statement of SQLite.
_MOST_ROWS = 2048
# Parameters that a statement may have in SQLite, from 3.32 on.
_MOST_PARAMETERS = 32_766
# SQLAlchemy otherwise doesn't keep the row count of an insert.
_KEEP_ROW_COUNT = {"preserve_rowcount": True}


def insert_missing(
    connection: Connection, table: type[Base], rows: Sequence[Mapping[str, Any]], **constant: Any
) -> int:
    """Insert the rows whose unique key isn't there yet, and return how many were inserted.

    Args:
        connection: Is in a transaction.
        table: The table.
        rows: Values by column, all with the same columns: JSON as text, no moments.
        constant: Values that are the same in all rows, of any type.
    """
    if not rows:
        return 0
    columns = tuple(rows[0])
    values = [tuple(map(row.__getitem__, columns)) for row in rows]
    return insert_missing_values(connection, table, columns, values, **constant)


def insert_missing_values(
    connection: Connection,
    table: type[Base],
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    **constant: Any,
) -> int:
    """Do the same for rows that are tuples, whose values have the order of `columns`.

    SQLAlchemy's own way from a row to the driver takes longer than SQLite needs to store it. So
    the values of rows go to the driver as they are.
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
    compiled = statement.compile(dialect=dialect, column_keys=[*columns, *constant])
    assert isinstance(compiled, SQLCompiler)

    values: dict[str, Sequence[Any]] = dict(zip(columns, zip(*rows, strict=True), strict=True))
    for name, value in constant.items():
        column_type = table.__table__.columns[name].type.dialect_impl(dialect)
        convert = column_type.bind_processor(dialect)
        values[name] = (convert(value) if convert else value,) * len(rows)

    # Parameters have a position in SQLite's statements, and a name in PostgreSQL's.
    if compiled.positiontup is not None:
        ordered = [values[name] for name in compiled.positiontup]
        return _insert_by_position(connection, str(compiled), len(rows), ordered)
    parameters = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    result = connection.exec_driver_sql(
        str(compiled), parameters, execution_options=_KEEP_ROW_COUNT
    )
    return result.rowcount


def _insert_by_position(
    connection: Connection, statement: str, rows: int, columns: Sequence[Sequence[Any]]
) -> int:
    """Insert rows with statements of many rows each, and return how many were inserted.

    Python's `executemany` takes the interpreter back from other threads for each row. A statement
    of many rows leaves it to them until the last one is stored. It is held while parameters are
    handed over, so a column that has one value in all rows of a statement is one parameter.

    Args:
        connection: Is in a transaction.
        statement: Inserts one row.
        rows: The number of rows.
        columns: The values of each parameter of the statement.
    """
    most_rows = min(_MOST_ROWS, _MOST_PARAMETERS // (len(columns) + 1))

    inserted = start = 0
    while start < rows:
        # Powers of two: the driver keeps a dozen prepared statements, not one for each number.
        size = 1 << (min(rows - start, most_rows).bit_length() - 1)
        values = [column[start : start + size] for column in columns]
        is_constant = [column.count(column[0]) == size for column in values]
        # Even rows that are all equal are that many rows.
        is_constant[0] = is_constant[0] and not all(is_constant)

        constants = [column[0] for column, same in zip(values, is_constant, strict=True) if same]
        varying = [column for column, same in zip(values, is_constant, strict=True) if not same]
        parameters = (*constants, *chain.from_iterable(zip(*varying, strict=True)))
        many_rows = _statement_of_rows(statement, tuple(is_constant), size)
        result = connection.exec_driver_sql(
            many_rows, parameters, execution_options=_KEEP_ROW_COUNT
        )
        inserted += result.rowcount
        start += size
    return inserted


@lru_cache(maxsize=64)
def _statement_of_rows(statement: str, is_constant: tuple[bool, ...], size: int) -> str:
    """Return the statement that inserts many rows.

    Args:
        statement: Inserts one row.
        is_constant: For each parameter, whether all rows share it. Those come first.
        size: The number of rows.
    """
    # SQLite names the columns of a list of values: column1, column2, ...
    column_number = count(1)
    selected = []
    for same in is_constant:
        selected.append("?" if same else f"column{next(column_number)}")
    placeholders = ", ".join("?" * is_constant.count(False))
    rows = ", ".join(repeat(f"({placeholders})", size))

    one_row = f"VALUES ({', '.join('?' * len(is_constant))})"
    # Without WHERE, SQLite would take ON CONFLICT for a join's condition.
    parts = ("SELECT", ", ".join(selected), "FROM (VALUES", rows, ") WHERE true")
    return statement.replace(one_row, " ".join(parts))
