"""The data contracts: well-formed, complete, and every clause refuses what it should."""

import copy
import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest

from data_contracts import NAMES, Contract, ContractError, contract
from data_contracts.contract import released
from faceid_core.evaluate.metrics import METRICS
from tests.helpers.table_rows import metric_row, outcome_row, person_key, run, run_row, summary_row

LOGICAL = {
    "string": "string",
    "date": "date",
    "timestamp": "timestamp",
    "bigint": "integer",
    "double": "number",
    "boolean": "boolean",
}


def problems(agreed: Contract, *rows) -> list[str]:
    with pytest.raises(ContractError) as caught:
        agreed.check(agreed.table(rows))
    assert f"table {agreed.name} breaks its contract in {len(caught.value.problems)} point(s)" in str(
        caught.value
    )
    return caught.value.problems


@pytest.mark.parametrize("name", NAMES)
def test_a_contract_is_well_formed(name):
    document = contract(name).document
    assert (document["apiVersion"], document["kind"], document["name"]) == ("v3.1.0", "DataContract", name)
    (table,) = document["schema"]
    assert table["name"] == name and document["status"] == "active" and document["description"]["purpose"]
    for column in table["properties"]:
        assert column["description"].endswith(".")
        assert LOGICAL.get(column["physicalType"], "array") == column["logicalType"]
        assert not column.get("primaryKey") or column["required"]
    assert contract(name).partition == () and contract(name).primary_key
    assert len(set(contract(name).schema.names)) == len(table["properties"])


@pytest.fixture(scope="module")
def standard():
    """The standard's own JSON schema (Apache License 2.0), as its validators have it."""
    schema = json.loads((Path(__file__).parent / "odcs-3.1.0.schema.json").read_text())
    return jsonschema.validators.validator_for(schema)(schema)


@pytest.mark.parametrize("name", NAMES)
def test_a_contract_keeps_the_standards_schema(name, standard):
    document = contract(name).document
    assert [error.message for error in standard.iter_errors(document)] == []
    wrong = copy.deepcopy(document)
    wrong["schema"][0]["properties"][0]["logicalType"] = "text"
    wrong["status"] = 1
    assert len(list(standard.iter_errors(wrong))) >= 2
    del wrong["apiVersion"]
    assert any("apiVersion" in error.message for error in standard.iter_errors(wrong))


def test_keys_are_those_of_the_design():
    assert {name: contract(name).primary_key for name in NAMES} == {
        "runs": ("run_id",),
        "identity_outcomes": ("run_id", "identity_key"),
        "images": ("generate_key", "prompt_id", "seed"),
        "image_metrics": ("generate_key", "prompt_id", "seed", "metric", "score_key"),
        "identity_summary": ("run_id", "subject_kind", "subject"),
    }
    with pytest.raises(KeyError, match="there are runs, identity_outcomes"):
        contract("people")


def test_ids_are_in_no_other_column_than_the_confidential_one():
    confidential = {
        (name, column["name"])
        for name in NAMES
        for column in contract(name).document["schema"][0]["properties"]
        if "classification" in column
    }
    assert confidential == {("identity_outcomes", "identity_id"), ("identity_summary", "identity_id")}


def test_good_rows_pass_in_any_order_of_columns():
    for name, table in run("r1", 1).items():
        contract(name).check(table)
        contract(name).check(table.select(sorted(table.column_names)))
        contract(name).check(contract(name).schema.empty_table())


def test_every_problem_is_told_at_once():
    bad = outcome_row("r1", 1, 1) | {
        "outcome": "vanished",
        "seconds": -1.0,
        "value": float("nan"),
        "mask_key": "0" * 64 + "\n",
        "identity_key": None,
    }
    told = problems(contract("identity_outcomes"), outcome_row("r1", 1, 0), bad)
    assert told == [
        "identity_key is null, which it may not be (row 1: None)",
        "outcome is none of done, cached, rejected, refused, failed, not_reached (row 1: 'vanished')",
        "value is not a finite number; absent values are null (row 1: nan)",
        "seconds is below 0 (row 1: -1.0)",
        f"mask_key does not match ^[0-9a-f]{{64}}$ (row 1: {'0' * 64 + chr(10)!r})",
    ]


def test_an_error_does_not_tell_confidential_values():
    row = outcome_row("r1", 1, 0) | {"identity_id": None}
    assert problems(contract("identity_outcomes"), row) == [
        "identity_id is null, which it may not be (row 0)"
    ]


def test_a_key_may_be_there_once_only():
    (told,) = problems(contract("identity_outcomes"), *[outcome_row("r1", 1, number) for number in (0, 1, 0)])
    assert told.startswith("1 primary key(s) (run_id, identity_key) are there more than once")


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("runs", run_row("r1", 1, 3) | {"done": 2}, "complete-outcome-report"),
        (
            "runs",
            run_row("r1", 1, 3) | {"started_at": datetime(2027, 1, 1, tzinfo=UTC)},
            "ends-after-it-starts",
        ),
        ("runs", run_row("r1", 1, 3) | {"exit_status": 9}, "none of 0, 1, 2, 3"),
        ("runs", run_row("../r1", 1, 3), "run_id does not match"),
        (
            "identity_outcomes",
            outcome_row("r1", 1, 0) | {"outcome": "rejected", "stage": "mask"},
            "early-ends-have-a-reason",
        ),
        (
            "identity_outcomes",
            outcome_row("r1", 1, 0) | {"outcome": "failed", "stage": "mask"},
            "failures-are",
        ),
        ("identity_outcomes", outcome_row("r1", 1, 0) | {"generate_key": None}, "finished-identities-have"),
        (
            "identity_outcomes",
            outcome_row("r1", 1, 0) | {"outcome": "not_reached"},
            "early-ends-name-a-stage",
        ),
        (
            "identity_summary",
            summary_row("r1", 1, 0) | {"identity_gain_low": -50.0},
            "intervals-are-in-range",
        ),
        ("identity_summary", summary_row("r1", 1, 0) | {"generate_key": None}, "people-have-tokens"),
        ("image_metrics", metric_row(1, 0, 0, 1.0) | {"metric": "identiy"}, "metric is none of identity"),
        ("image_metrics", metric_row(1, 0, 0, 7.0), "values-are-in-range"),
        ("image_metrics", metric_row(1, 0, 0, 0.3) | {"metric": "detection"}, "values-are-in-range"),
        ("image_metrics", metric_row(1, 0, 0, None) | {"null_reason": None}, "values-or-a-reason"),
        ("identity_summary", summary_row("r1", 1, 0) | {"subject": person_key(1)}, "people-are-identified"),
        ("identity_summary", summary_row("r1", 1, 0) | {"subject_kind": "named"}, "people-are-identified"),
        ("identity_summary", summary_row("r1", 1, 0) | {"identity_similarity": 0.7}, "intervals-hold"),
        ("identity_summary", summary_row("r1", 1, 0) | {"detection": 1.01}, "detection is above 1"),
    ],
)
def test_rules_refuse_what_they_are_for(name, row, told):
    (problem,) = problems(contract(name), row)
    assert told in problem


def test_floor_and_ceiling_have_no_identity():
    floor = summary_row("r1", 1, 0) | {"subject_kind": "class_word", "subject": "person"}
    agreed = contract("identity_summary")
    agreed.check(agreed.table([floor | {"identity_id": None, "identity_key": None}]))


def test_a_cosine_a_hair_above_one_is_one():
    row = summary_row("r1", 1, 0) | {"identity_similarity": 1 + 1e-7, "identity_similarity_high": 1 + 1e-7}
    contract("identity_summary").check(contract("identity_summary").table([row]))


def test_columns_must_be_those_of_the_contract():
    table = run("r1", 1)["images"]
    wrong = table.set_column(table.schema.get_field_index("seed"), "seed", table["seed"].cast(pa.int32()))
    with pytest.raises(ContractError, match="column seed is int32, not int64"):
        contract("images").check(wrong)
    with pytest.raises(ContractError, match="column extra is not in the contract"):
        contract("images").check(table.append_column("extra", table["seed"]))
    with pytest.raises(ContractError, match="column seed is there 2 times"):
        contract("images").check(table.append_column("seed", table["seed"]))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"seedling": 1}, "unknown column seedling"),
        ({"seed": 1.5}, "seed: not whole numbers"),
        ({"seed": True}, "seed: not whole numbers"),
        ({"guidance_scale": "much"}, "guidance_scale: not a double"),
        ({"prompt": 3}, "prompt: not a string"),
    ],
)
def test_rows_of_the_wrong_kind_make_no_table(row, told):
    with pytest.raises(ContractError, match=told):
        contract("images").table([row])


def test_rows_may_leave_columns_out_and_take_lists_and_numpy_numbers():
    row = outcome_row("r1", 1, 0) | {
        "stage_results": [{"stage": "mask", "stage_key": "1", "version": np.int64(3)}],
        "attempts": np.int64(2),
        "value": np.float32(0.5),
    }
    table = contract("identity_outcomes").table([row, {"run_date": date(2026, 1, 1)}])
    assert table.schema == contract("identity_outcomes").schema
    first, second = table.to_pylist()
    (result,) = first["stage_results"]
    assert (result["stage"], result["version"], result["computed"]) == ("mask", 3, None)
    assert (
        (first["attempts"], first["value"]) == (2, 0.5)
        and second["stage_results"] is None
        and second["outcome"] is None
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_a_contract_keeps_what_was_released_until_its_next_major_version(version):
    """A new column is a minor version; a column that changes, goes or becomes required is a major one."""
    for name, old in released(version).items():
        now = contract(name)
        numbers = [tuple(map(int, each.version.split("."))) for each in (old, now)]
        assert numbers[0] <= numbers[1], name
        if old.major != now.major:
            continue
        assert old.primary_key == now.primary_key and old.partition == now.partition, name
        for field in old.schema:
            assert field.name in now.schema.names, f"{name}.{field.name} is gone"
            assert now.schema.field(field.name).equals(field), f"{name}.{field.name} changed"
        added = set(now.schema.names) - set(old.schema.names)
        assert all(now.schema.field(column).nullable for column in added), name
        assert not added or numbers[0][:2] < numbers[1][:2], (
            f"{name}: {sorted(added)} need a new minor version"
        )
        assert old.digest == now.digest or numbers[0] < numbers[1], f"{name} changed without a new version"


def test_the_metrics_of_the_code_are_those_of_the_contract():
    (column,) = (c for c in _columns("image_metrics") if c["name"] == "metric")
    listed = column["quality"][0]["arguments"]["validValues"]
    (described,) = column["customProperties"]
    assert [row["metric"] for row in described["value"]] == listed
    assert all(row["unit"] and row["direction"].endswith("_is_better") for row in described["value"])
    assert {name.partition(":")[0] for name in listed} == set(METRICS)


def test_relationships_lead_to_columns_that_exist():
    found = 0
    for name in NAMES:
        for column in _columns(name):
            for relationship in column.get("relationships", ()):
                table, _, target = relationship["to"].partition(".")
                assert (
                    contract(table).schema.field(target).type
                    == contract(name).schema.field(column["name"]).type
                )
                found += 1
    assert found >= 6


def test_examples_keep_the_contract():
    for name in NAMES:
        for column in _columns(name):
            pattern = column.get("logicalTypeOptions", {}).get("pattern", "")
            assert all(re.search(pattern, str(each)) for each in column.get("examples", ())), column["name"]


def _columns(name: str) -> list[dict]:
    return contract(name).document["schema"][0]["properties"]
