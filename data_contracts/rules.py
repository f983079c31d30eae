"""How each kind of clause in a data contract is checked, and the error that lists what broke."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A rule that somebody wrote into a contract must never look kept because nothing looked.
_UNCHECKED = (
    "the contract's rule {} is of a kind that nothing here checks; write it as SQL or invalidValues, mustBe 0"
)
# A cosine of two float32 vectors can come out a hair above 1.
_TOLERANCE = 1e-6
_SHOWN = 3


class ContractError(ValueError):
    """A table breaks its contract; `problems` holds one line each."""

    def __init__(self, table: str, problems: list[str]):
        self.table, self.problems = table, list(problems)
        listed = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"table {table} breaks its contract in {len(self.problems)} point(s):\n{listed}")


def problems_of(table: pa.Table, schema: pa.Schema, primary_key: tuple[str, ...], clauses: dict) -> list[str]:
    """Everything in a table that its contract forbids.

    Args:
        table: the rows.
        schema: what the columns must be.
        primary_key: columns that together must be unique.
        clauses: the table's part of the contract, with `properties` and `quality`.

    Returns:
        One line per problem; none when all is well.
    """
    problems = list(_schema(table, schema))
    if problems:
        return problems  # the checks of values would only stumble over the same
    for column in clauses["properties"]:
        problems += _column(table[column["name"]].combine_chunks(), column)
    problems += _key(table, primary_key)
    if rules := clauses.get("quality"):
        problems += _sql(table, rules)
    return problems


def _schema(table: pa.Table, schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        count = table.column_names.count(field.name)
        if count == 0:
            yield f"column {field.name} is missing"
        elif count > 1:
            yield f"column {field.name} is there {count} times"
        elif table.schema.field(field.name).type != field.type:
            yield f"column {field.name} is {table.schema.field(field.name).type}, not {field.type}"
    for name in sorted(set(table.column_names) - set(schema.names)):
        yield f"column {name} is not in the contract"


def _column(values: pa.Array, column: dict) -> Iterator[str]:
    name, options = column["name"], column.get("logicalTypeOptions", {})
    if column.get("required"):
        yield from _complain(values, pc.is_null(values), column, "is null, which it may not be")
    if pa.types.is_floating(values.type):
        odd = pc.or_kleene(pc.is_nan(values), pc.is_inf(values))
        yield from _complain(values, odd, column, "is not a finite number; absent values are null")
    slack = _TOLERANCE if pa.types.is_floating(values.type) else 0
    if "minimum" in options:
        low = options["minimum"]
        yield from _complain(values, pc.less(values, low - slack), column, f"is below {low}")
    if "maximum" in options:
        high = options["maximum"]
        yield from _complain(values, pc.greater(values, high + slack), column, f"is above {high}")
    if "pattern" in options:
        pattern = options["pattern"].removesuffix("$") + r"\z"
        # Most columns repeat few values: rows are only looked at where one of these is odd.
        if not pc.all(pc.match_substring_regex(pc.unique(values), pattern), min_count=0).as_py():
            odd = pc.invert(pc.match_substring_regex(values, pattern))
            yield from _complain(values, odd, column, f"does not match {options['pattern']}")
    for rule in column.get("quality", ()):
        if rule.get("metric") != "invalidValues" or rule.get("mustBe") != 0:
            raise ValueError(_UNCHECKED.format(f"{rule} for {name}"))
        allowed = rule["arguments"]["validValues"]
        known = pc.is_in(values, value_set=pa.array(allowed, values.type))
        odd = pc.and_kleene(pc.is_valid(values), pc.invert(known))
        yield from _complain(values, odd, column, f"is none of {', '.join(map(str, allowed))}")


def _complain(values: pa.Array, odd: pa.Array, column: dict, what: str) -> Iterator[str]:
    rows = pc.indices_nonzero(pc.fill_null(odd, False)).to_pylist()
    if not rows:
        return
    # Errors end up in logs, where ids and other confidential values have no business.
    shown = [
        f"row {row}" if "classification" in column else f"row {row}: {values[row].as_py()!r}" for row in rows
    ]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    yield f"{column['name']} {what} ({'; '.join(shown[:_SHOWN])}{more})"


def _key(table: pa.Table, primary_key: tuple[str, ...]) -> Iterator[str]:
    if _keys_are_unique(table, primary_key):
        return
    counted = table.select(primary_key).group_by(list(primary_key)).aggregate([([], "count_all")])
    repeated = counted.filter(pc.greater(counted["count_all"], 1))
    if repeated.num_rows:
        first = repeated.select(primary_key).slice(0, 1).to_pylist()[0]
        key = ", ".join(primary_key)
        yield f"{repeated.num_rows} primary key(s) ({key}) are there more than once, such as {first}"


def _keys_are_unique(table: pa.Table, primary_key: tuple[str, ...]) -> bool:
    """Whether every key is there once, told quickly; False where that is not certain."""
    numbers, room = np.zeros(table.num_rows, np.int64), 1
    for name in primary_key:
        encoded = table[name].combine_chunks().dictionary_encode()
        if encoded.null_count or room > 2**62 // max(1, len(encoded.dictionary)):
            return False
        numbers = numbers * len(encoded.dictionary) + encoded.indices.to_numpy()
        room *= max(1, len(encoded.dictionary))
    return len(np.unique(numbers)) == table.num_rows


@functools.cache
def _engine():
    """One database in memory for all rules: opening one takes longer than asking it."""
    import duckdb  # only rules across columns need it, and stages that only want a schema do not

    atexit.register(_engine.cache_clear)  # one that is alive at the very end makes its library complain
    # A rule asks of the table that it checks, and of nothing else on the machine.
    locked = {
        "enable_external_access": "false",
        "python_enable_replacements": "false",
        "lock_configuration": "true",
    }
    return duckdb.connect(config=locked)


def _sql(table: pa.Table, rules: Sequence[dict]) -> Iterator[str]:
    with _engine().cursor() as connection:
        connection.register("checked", table)
        for rule in rules:
            if rule.get("type") != "sql" or rule.get("mustBe") != 0:
                raise ValueError(_UNCHECKED.format(rule.get("name")))
            rows = connection.execute(rule["query"].replace("${object}", "checked")).fetchall()[0][0]
            if rows:
                yield f"{rule['name']}: {rows} row(s) against: {rule['description']}"
