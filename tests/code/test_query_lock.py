"""SQL over the tables reads these tables and nothing else: no file, no network, no variable, no setting."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_COMPLETE, EXIT_CONFIGURATION
from faceid_core.store import IdentitySecret, initialize, open_store
from faceid_core.tables import Tables
from flows.cli import cli
from tests.code.test_cli_store import faceid
from tests.helpers.table_rows import run

SECRET = "5a" * 32
# FILE stands for a file of the machine that exists, OUT for one that must not be made.
REFUSED_KINDS = (
    "copy runs to 'OUT'",
    "copy (select 1) to 'OUT' (format parquet)",
    "attach 'OUT' as other",
    "pragma database_list",
    "set memory_limit = '1GB'",
    "reset lock_configuration",
    "set variable a = (select content from read_text('FILE'))",
    "install httpfs",
    "load httpfs",
    "update extensions",
    "export database 'OUT'",
    "import database 'OUT'",
    "call duckdb_settings()",
    "create table t as select 1",
    "create macro m() as table select * from read_text('FILE')",
    "create secret s (type s3)",
    "insert into runs select * from runs",
    "drop view runs",
    "use memory",
    "begin",
    "checkpoint",
    "vacuum",
    "prepare p as select 1",
    "select 1; copy runs to 'OUT'",
    "explain analyze create table t as select 1",
    "explain analyse create table t as select 1",
    "explain /* ä */ analyze create table t as select 1",
    "/* a */ explain (analyze, format json) -- b\n drop view runs",
    "pivot runs on name using count(*)",
    "",
    " ; -- nothing",
)
REFUSED_REACH = (
    "select * from read_text('FILE')",
    "select * from read_blob('FILE')",
    "select * from read_csv('FILE')",
    "select * from read_json('JSON')",
    "select * from read_parquet('PARQUET')",
    "select * from read_duckdb('DUCKDB')",
    "select * from sniff_csv('FILE')",
    "select * from parquet_metadata('PARQUET')",
    "select * from glob('/etc/*')",
    "select * from 'FILE'",
    "select * from query('select * from read_text(''FILE'')')",
    "with gone as (copy runs to 'OUT') select 1",
    "explain /* ä */ analyze with gone as (copy runs to 'OUT') select 1",
    "explain analyze with gone as (copy runs to 'OUT') select 1",
    "select * from runs where name = (select content from read_text('FILE'))",
    "select * from enable_logging(storage_path = 'OUT')",
)
# Refused with the lock and without it: the network, and what this connection does not have.
REFUSED_ANYWAY = (
    "select * from 'https://example.com/x.parquet'",
    "select * from read_parquet('s3://bucket/x')",
    "select getenv('FACEID_IDENTITY_SECRET')",
    "select * from private_local",
    "select * from query_table('private_local')",
    "with gone as (delete from runs returning *) select * from gone",
    "select * from arrow_scan(1, 2, 3)",
    "select * from python_map_function((select 1))",
    "select * from delta_scan('/tmp')",
)
ORDINARY = (
    "select count(*) from runs",
    "with r as (select * from runs) select * from r",
    "from runs",
    "table runs",
    "values (1)",
    "describe runs",
    "summarize images",
    "show tables",
    "explain select * from runs",
    "explain analyze select * from runs",
    "explain /*ääääääääääääääääääää*/ select 'ö' from runs",
    "explain (format json) (select 1) union (select 2)",
    "select i.prompt_id, avg(m.value) from images i join image_metrics m using (generate_key, seed) group by all",
    "select subject, rank() over (partition by run_id order by identity_similarity desc) from identity_summary",
    "pivot runs on name in ('nightly', 'other') using count(*)",
    "unpivot (select images, concept_accuracy from identity_summary) on images into name figure value n",
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select * from n",
    "select 1; select 2 -- the last counts",
    "select unnest(stage_results) from identity_outcomes",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = open_store(str(tmp_path_factory.mktemp("query") / "store"))
    initialize(made, IdentitySecret(bytes.fromhex(SECRET)))
    Tables(made).publish("r1", run("r1", 1))
    return made


@pytest.fixture
def opened(store, monkeypatch):
    """Tables whose files are opened once for all statements."""
    return Tables(store)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Files that SQL must not read, in the present folder; a function that puts their names into a statement."""
    monkeypatch.chdir(tmp_path)
    secret = pa.table({"content": ["letters"]})
    (tmp_path / "secret.csv").write_text("content\nletters\n")
    (tmp_path / "secret.json").write_text('[{"content": "letters"}]')
    pq.write_table(secret, tmp_path / "secret.parquet")
    with duckdb.connect(str(tmp_path / "secret.duckdb")) as connection:
        connection.execute("create table t as select 'letters' as content")
    names = {"FILE": "secret.csv", "JSON": "secret.json", "PARQUET": "secret.parquet", "DUCKDB": "secret.duckdb"}

    def named(sql: str) -> str:
        for word, name in (names | {"OUT": "out"}).items():
            sql = sql.replace(f"'{word}'", f"'{tmp_path / name}'")
        return sql

    return named


@pytest.mark.parametrize("sql", REFUSED_KINDS)
def test_only_statements_that_read_are_run(opened, machine, tmp_path, sql):
    with pytest.raises(ConfigurationError, match=r"only statements that read|IN \(|query is empty"):
        opened.query(machine(sql))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sql", REFUSED_REACH)
def test_a_statement_that_reads_reaches_nothing_but_the_tables(opened, machine, tmp_path, sql):
    with pytest.raises((duckdb.PermissionException, duckdb.InvalidInputException)) as caught:
        opened.query(machine(sql))
    assert "letters" not in str(caught.value) and not (tmp_path / "out").exists()
    with opened.connect(locked=False) as connection:  # so it is the lock that refuses
        connection.execute(machine(sql)).fetchall()


@pytest.mark.parametrize("sql", REFUSED_ANYWAY)
def test_what_this_connection_does_not_have_is_refused(opened, machine, sql):
    with pytest.raises(duckdb.Error):
        opened.query(machine(sql))


@pytest.mark.parametrize("sql", ORDINARY)
def test_ordinary_questions_are_answered(opened, sql):
    assert opened.query(sql).num_rows


def test_the_python_connection_is_locked_unless_asked_otherwise(store, machine):
    read = machine("select * from read_csv('FILE')")
    private_local = pa.table({"private": ["letters"]})
    with Tables(store).connect() as connection:
        assert private_local.num_rows
        for statement in (
            read,
            "from private_local",
            machine("copy runs to 'OUT'"),
            "set enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
        assert connection.execute("select count(*) from images where seed >= ?", [0]).fetchall() == [(4,)]
    with Tables(store).connect(locked=False) as connection:
        for statement in (read, "from private_local"):
            assert connection.execute(statement).fetchall() == [("letters",)]


def test_the_command_refuses_with_a_sentence_and_opens_on_request(store, machine, monkeypatch, capsys):
    def answer(sql, *options):
        return faceid(monkeypatch, capsys, "query", machine(sql), "--store", store.root, *options)

    code, told = answer("copy runs to 'OUT'")
    assert code == EXIT_CONFIGURATION and "only statements that read" in told and "--unlocked" in told
    code, told = answer("select * from read_text('FILE')")
    assert code == EXIT_CONFIGURATION and "--unlocked" in told
    code, told = answer("select 1 from nowhere")
    assert code == EXIT_CONFIGURATION and "nowhere" in told and "--unlocked" not in told
    asked = ["query", machine("select * from read_csv('FILE')"), "--store", str(store.root), "--unlocked"]
    opened = CliRunner().invoke(cli, asked)
    assert opened.exit_code == EXIT_COMPLETE and "letters" in opened.output
