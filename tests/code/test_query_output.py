"""What `faceid query` prints: integers, nulls, dates and texts as they are, in every format."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import re
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from faceid_core.errors import ConfigurationError
from faceid_core.store import IdentitySecret, initialize, open_store
from faceid_core.tables import Tables, connect
from flows.cli import cli
from flows.query_output import rows_as
from tests.helpers.table_rows import run

SEED = 6_213_456_789_012_345_678  # more digits than a float has
ROWS = pa.table(
    {
        "seed": pa.array([SEED, None], pa.int64()),
        "count": pa.array([3, None], pa.int64()),
        "value": [0.1, None],
        "day": pa.array([dt.date(2026, 1, 2), None]),
        "at": pa.array([dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
        "text": ["=1+2", ""],
        "yes": [True, None],
        "list": [[{"stage": "mask"}], None],
    }
)


def test_csv_keeps_numbers_and_dates_and_guards_texts_that_are_formulas():
    lines = rows_as("csv", ROWS).decode().splitlines()
    listed = '"[{""stage"": ""mask""}]"'
    assert lines[0] == "seed,count,value,day,at,text,yes,list"
    assert lines[1] == f"{SEED},3,0.1,2026-01-02,2026-01-02T03:04:00+00:00,'=1+2,true,{listed}"
    assert lines[2] == ',,,,,"",,'
    guarded = pa.table({"t": ["+1", "-1", "@a", "a,b", " c"], "n": [-1, 1, 2, 3, 4]})
    assert rows_as("csv", guarded).decode().splitlines()[1:] == [
        "'+1,-1",
        "'-1,1",
        "'@a,2",
        '"a,b",3',
        '" c",4',
    ]


def test_json_and_parquet_keep_every_value():
    first, second = json.loads(rows_as("json", ROWS))
    assert first["seed"] == SEED and first["day"] == "2026-01-02" and first["list"] == [{"stage": "mask"}]
    assert set(second.values()) == {None, ""}
    assert json.loads(rows_as("json", pa.table({"v": [float("nan")]}))) == [{"v": None}]
    assert json.loads(rows_as("json", ROWS.slice(0, 0))) == []
    assert pq.read_table(io.BytesIO(rows_as("parquet", ROWS))).equals(ROWS)


def test_json_keeps_columns_of_one_name_and_sums_as_numbers():
    twice = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "x", "x_1"])
    assert json.loads(rows_as("json", twice)) == [{"x": 1, "x_1": 2, "x_1_1": 3}]
    sums = pa.table({"whole": pa.array([Decimal(2**80)], pa.decimal128(38, 0)), "cost": [Decimal("6.00")]})
    assert json.loads(rows_as("json", sums)) == [{"whole": 2**80, "cost": 6.0}]
    assert rows_as("table", sums.select(["cost"])).decode().splitlines() == ["cost", "6.00"]


def test_a_table_is_aligned_and_says_null():
    lines = rows_as("table", ROWS.select(["count", "text", "seed"])).decode().splitlines()
    assert lines == [
        "count  text                 seed",
        f"    3  =1+2  {SEED}",
        " NULL                       NULL",
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    made = open_store(str(tmp_path_factory.mktemp("query") / "store"))
    initialize(made, IdentitySecret(b"5" * 32))
    Tables(made).publish("r1", run("r1", 1))
    return str(made.root)


def ask(store: str, *arguments: str, given: str = "") -> str:
    ended = CliRunner().invoke(cli, ["query", *arguments, "--store", store], input=given)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_sql_comes_from_the_argument_a_file_or_the_input(store, tmp_path):
    sql = "select count(*) as n from images"
    (tmp_path / "q.sql").write_text(sql)
    for arguments, given in (
        ((sql,), ""),
        (("--file", str(tmp_path / "q.sql")), ""),
        (("-",), sql),
        ((), sql),
    ):
        assert ask(store, *arguments, "--format", "csv", given=given) == "n\n4\n"
    out = tmp_path / "answer.parquet"
    assert ask(store, sql, "--format", "parquet", "--out", str(out)) == ""
    assert pq.read_table(out)["n"].to_pylist() == [4] and out.stat().st_mode & 0o077 == 0
    both = CliRunner().invoke(cli, ["query", sql, "--file", str(tmp_path / "q.sql"), "--store", store])
    assert both.exit_code != 0


def test_instants_are_of_one_timezone_wherever_the_question_is_asked(store, monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    assert ask(store, "select current_setting('TimeZone') as zone", "--format", "csv") == "zone\nUTC\n"
    assert ask(store, "select started_at from runs", "--format", "csv").splitlines()[1].endswith("+00:00")


def test_a_prompt_answers_statement_after_statement_and_survives_a_faulty_one(store):
    told = ask(
        store, "--open", given="select 1 as one;\nselect nothing;\nselect\n2 as two;\n.quit\nselect 3;\n"
    )
    assert "one" in told and "two" in told and "3" not in told


def test_a_connection_of_an_address_has_the_views(store):
    with connect(store) as connection:
        assert connection.sql("select count(*) from latest").fetchall() == [(2,)]


def test_the_examples_of_the_page_run(store, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    found: dict = {}
    for block in blocks:
        lines = block.replace("work/store", store).splitlines(keepends=True)
        if find_spec("datasets") is None:  # no package of this project needs it
            lines = [line for line in lines if "load_dataset" not in line]
        exec(compile("".join(lines), "docs/tables.md", "exec"), found)
    assert len(found["by_pandas"]) == len(found["by_polars"]) == found["by_arrow"].num_rows == 2
    assert found["rows"].fetchall() == [(4,)]


def test_what_arrow_parquet_or_python_lack_is_text_in_every_format(store, tmp_path):
    sql = (
        "select interval 2200 millisecond as took, [interval 1 day] as days, union_value(num := 2) as u, "
        "'101'::bit as bits, 5::bignum as big, date '99999-01-01' as far, 'infinity'::timestamp as never, 1 as a, 2 as a"
    )
    (row,) = csv.DictReader(io.StringIO(ask(store, sql, "--format", "csv")))
    assert (row["took"], row["u"], row["bits"], row["big"]) == ("00:00:02.2", "2", "101", "5")
    assert json.loads(ask(store, sql, "--format", "json"))[0]["took"] == "00:00:02.2"
    assert "00:00:02.2" in ask(store, sql)
    ask(store, sql, "--format", "parquet", "--out", str(tmp_path / "odd.parquet"))
    assert pq.ParquetFile(tmp_path / "odd.parquet").read(columns=["took"])["took"].to_pylist() == ["00:00:02.2"]
    told = ask(store, "--open", given=f"{sql};\nselect 7 as seven;\n")
    assert "00:00:02.2" in told and "seven" in told


def test_a_null_in_the_only_column_keeps_its_row(store):
    sql = "select null as reason union all select null"
    assert len(pd.read_csv(io.StringIO(ask(store, sql, "--format", "csv")))) == 2


def test_sql_that_is_not_utf_8_is_refused_and_not_our_bug(store, tmp_path):
    file = tmp_path / "bad.sql"
    file.write_bytes(b"select '\xe9' as x")
    text = file.read_bytes()
    for arguments, given in ((("--file", str(file)), None), (("-",), text), ((os.fsdecode(text),), None)):
        ended = CliRunner().invoke(cli, ["query", *arguments, "--store", store], input=given)
        assert isinstance(ended.exception, ConfigurationError) and "UTF-8" in str(ended.exception)


@pytest.mark.parametrize("more", [("select 1",), ("--format", "csv"), ("--out", "x.csv")])
def test_a_prompt_takes_no_statement_and_no_file(store, more):
    ended = CliRunner().invoke(cli, ["query", "--open", *more, "--store", store], input="")
    assert ended.exit_code == 2 and "leave out" in ended.output
