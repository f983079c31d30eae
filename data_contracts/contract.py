"""A table's contract, read from its YAML file: columns, key, partition, and the rules that rows must meet."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from .rules import ContractError, problems_of

_FOLDER = Path(__file__).resolve().parent
# In the order in which a run is read: what it did, to whom, with which pictures, how good.
NAMES = ("runs", "identity_outcomes", "images", "image_metrics", "identity_summary")
_TYPES = {
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "map<string,string>": pa.map_(pa.string(), pa.string()),  # only in contracts of major version 1
}


@dataclass(frozen=True)
class Contract:
    """What a table promises.

    Attributes:
        name: the table's.
        version: of the contract, as major.minor.patch.
        schema: Arrow fields in order; required columns are not nullable.
        primary_key: columns that together name a row.
        partition: the columns that Delta partitions by.
        document: the whole YAML document.
        digest: SHA-256 of the YAML file.
    """

    name: str
    version: str
    schema: pa.Schema
    primary_key: tuple[str, ...]
    partition: tuple[str, ...]
    document: Mapping
    digest: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """What files and commits that hold rows of this contract say of it."""
        return {"faceid.contract": f"{self.name} {self.version}", "faceid.contract_sha256": self.digest}

    @property
    def major(self) -> int:
        """The number in the table's folder."""
        return int(self.version.split(".")[0])

    @property
    def per_run(self) -> bool:
        """Whether rows belong to one run, or else are written once whatever run came first."""
        return "run_id" in self.primary_key

    def table(self, rows: Iterable[Mapping]) -> pa.Table:
        """Rows as an Arrow table of the contract's schema; columns that a row lacks are null.

        Raises:
            ContractError: if a row has an unknown column or a value of another type.
        """
        rows = list(rows)
        names = self.schema.names + sorted({name for row in rows for name in row} - set(self.schema.names))
        return self.table_of_columns({name: [row.get(name) for row in rows] for name in names})

    def table_of_columns(self, values_of: Mapping[str, Sequence]) -> pa.Table:
        """Columns of Python values as an Arrow table of the contract's schema: many rows without a mapping for each.

        Args:
            values_of: the values of each column of the contract, in the order of the rows.

        Raises:
            ContractError: if a column is unknown, or a value of another type.
        """
        unknown = sorted(values_of.keys() - set(self.schema.names))
        if unknown:
            raise ContractError(self.name, [f"unknown column {name}" for name in unknown])
        columns, problems = [], []
        for field in self.schema:
            values = values_of[field.name]
            kinds = set(map(type, values)) if pa.types.is_integer(field.type) else ()
            if any(issubclass(kind, float | bool) for kind in kinds):
                problems.append(f"{field.name}: not whole numbers")  # Arrow would cut them off in silence
                continue
            try:
                columns.append(pa.array(values, field.type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                problems.append(f"{field.name}: not a {field.type}: {error}")
        if problems:
            raise ContractError(self.name, problems)
        return pa.Table.from_arrays(columns, schema=self.schema)

    def check(self, table: pa.Table) -> None:
        """Hold a table to the contract.

        Args:
            table: any rows; columns may come in any order.

        Raises:
            ContractError: listing every problem.
        """
        problems = problems_of(table, self.schema, self.primary_key, self.document["schema"][0])
        if problems:
            raise ContractError(self.name, problems)


# The same safe loader in C, ten times as fast; PyYAML has it wherever libyaml was there to build with.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def contract(name: str) -> Contract:
    """The contract of a table.

    Raises:
        KeyError: if there is no such table.
    """
    if name not in NAMES:
        raise KeyError(f"there is no table {name!r}; there are {', '.join(NAMES)}")
    return read_contract(_FOLDER / f"{name}.odcs.yaml")


def released(version: str) -> dict[str, Contract]:
    """The contracts that a version of faceid was released with, by table. Raises FileNotFoundError."""
    return {name: read_contract(_FOLDER / "released" / version / f"{name}.odcs.yaml") for name in NAMES}


def read_contract(file: Path) -> Contract:
    """The contract in a YAML file."""
    data = file.read_bytes()
    document = yaml.load(data, Loader=_LOADER)
    columns = document["schema"][0]["properties"]
    fields = [pa.field(c["name"], _arrow_type(c), nullable=not c.get("required", False)) for c in columns]
    return Contract(
        name=document["name"],
        version=document["version"],
        schema=pa.schema(fields),
        primary_key=_in_order(columns, "primaryKey", "primaryKeyPosition"),
        partition=_in_order(columns, "partitioned", "partitionKeyPosition"),
        document=document,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _arrow_type(column: Mapping) -> pa.DataType:
    """The Arrow type of a column, or of a part of one."""
    if column["logicalType"] == "array":
        return pa.list_(_arrow_type(column["items"]))
    if column["logicalType"] == "object" and "properties" in column:
        return pa.struct([(part["name"], _arrow_type(part)) for part in column["properties"]])
    return _TYPES[column["physicalType"]]


def _in_order(columns: list[dict], flag: str, position: str) -> tuple[str, ...]:
    return tuple(c["name"] for c in sorted((c for c in columns if c.get(flag)), key=lambda c: c[position]))
