"""The configuration model: what is refused, how it is said, and that file, command line and form agree."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from faceid_core.config import NightlyConfig, changed, load_config, parse_config, store_options
from faceid_core.config.parse import parse_setting
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.grid import load_grid
from faceid_core.run.identities import OnePerson
from faceid_core.run.records import config_digest
from faceid_core.stages.models import WorkerSettings
from faceid_core.store import S3Settings, open_store
from faceid_core.studies.definitions import studies
from faceid_core.weights.required import BASE, DETECTOR


def test_an_unknown_key_is_refused_with_the_key_that_was_meant():
    with pytest.raises(ConfigurationError, match=r"generate\.sedes: unknown key; did you mean 'seeds'\?"):
        parse_config({"generate": {"sedes": 4}})


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigurationError) as caught:
        parse_config({"generate": {"seeds": 0, "guidance_scale": 99}, "run": {"timezone": "Mars/Base"}})
    text = str(caught.value)
    assert all(
        key in text for key in ("generate.seeds", "generate.guidance_scale", "run.timezone", "Mars/Base")
    )


def test_impossible_combinations_of_the_method_are_refused():
    with pytest.raises(ConfigurationError, match=r"personalize: .*warmup_steps 5 must be less than steps 5"):
        parse_config({"personalize": {"method": {"steps": 5, "warmup_steps": 5}}})
    with pytest.raises(ConfigurationError, match=r"personalize\.method\.steps"):
        parse_config({"personalize": {"method": {"steps": 0}}})
    with pytest.raises(ConfigurationError, match="needs force"):
        parse_config({"run": {"from_stage": "mask"}})


def test_a_time_that_yaml_takes_for_a_number_is_refused(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text("run: {finish_by: 22:30}\n")
    with pytest.raises(ConfigurationError, match="in quotes"):
        load_config(file)
    file.write_text("run: {finish_by: '22:30'}\n")
    assert load_config(file).run.finish_by.hour == 22


def test_a_date_is_read_as_it_is_written(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text("run: {date: 2026-11-20}\n")
    assert load_config(file).run.date == load_config(None, {"run.date": "2026-11-20"}).run.date
    assert parse_setting("run.date=2026-11-20") == ("run.date", "2026-11-20")
    file.write_text("run: {date: 20261120}\n")
    with pytest.raises(ConfigurationError, match="write the date as in 2026-11-20"):
        load_config(file)


def test_an_override_changes_the_preset_and_nothing_else():
    config = parse_config({"personalize": {"preset": "textual-inversion", "method": {"steps": 7}}})
    method = config.personalize.resolved()
    assert (method.steps, method.stages, method.kv_split, method.attention_target) == (7, 1, False, "none")


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text("generate: {seeds: 3, steps: 9}\n")
    config = load_config(file, {"generate.seeds": "5"})
    assert (config.generate.seeds, config.generate.steps) == (5, 9)


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "{broken",
        "generate: 3",
        "name: 2024-13-45",
        "name: " + "[" * 3000,
        "? {a: 1}\n: 2",
        "\x00",
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    file = tmp_path / "night.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError):
        load_config(file)


def test_where_and_how_a_run_executes_leaves_its_digest_alone():
    here = parse_config({"store": "a", "execution": {"workers": 4}, "run": {"force": True}})
    there = parse_config(
        {
            "store": "s3://b/c",
            "execution": {"executor": "inline"},
            "metrics": {"port": 9464},
            "log": {"format": "json"},
            "consent": {"erase_after_days": 30},
            "gate": {"promote": "never"},
        }
    )
    assert here.digest() == there.digest()
    assert here.digest() != parse_config({"generate": {"seeds": 1}}).digest()


def test_the_prompts_of_a_grid_of_ones_own_count_in_a_runs_digest(tmp_path):
    grid = tmp_path / "grid.yaml"

    def digest(config, text: str) -> str:
        grid.write_text(f"name: own\nprompts: [{{id: one, text: '{text}', category: plain}}]")
        plan = SimpleNamespace(grid=load_grid(config.generate.grid))
        return config_digest(SimpleNamespace(config=config, plan=plan))

    own, standard = parse_config({"generate": {"grid": str(grid)}}), parse_config({})
    assert digest(own, "a V*") == digest(own, "a V*") != digest(own, "the V*")
    assert digest(standard, "a V*") == digest(standard, "the V*") == standard.digest()


@pytest.mark.parametrize(
    ("s3", "path"),
    [
        ({}, False),
        ({"endpoint_url": "http://localhost:9"}, True),
        ({"endpoint_url": "http://localhost:9", "path_style": False}, False),
        ({"path_style": True}, True),
    ],
)
def test_the_bucket_is_in_the_path_as_configured_or_where_there_is_an_endpoint(s3, path, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    settings = parse_config({"s3": {"region": "eu-west-1", **s3}}).s3.settings()
    assert open_store("s3://bucket/p", settings).settings.by_path() is path


def test_the_region_is_taken_from_either_variable(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert S3Settings().session().region_name == "eu-north-1"
    assert S3Settings(region="us-west-2").session().region_name == "us-west-2"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert S3Settings().session().region_name == "eu-west-3"


def test_workers_get_local_folders_by_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("store", "weights", "miniature", "sd15", "own"):
        (tmp_path / name).mkdir()
    config = parse_config({"store": "store", "weights": "weights", "base_model": {"source": "org/model"}})
    settings = WorkerSettings.from_config(config, {}, threads=1)
    assert (settings.store, settings.model(BASE).place.source) == (
        str(tmp_path / "store"),
        str(tmp_path / "weights"),
    )
    sources = {
        "miniature": "miniature",
        "sd15": "sd15",
        "./sd15": f"{tmp_path}/sd15",
        "own": f"{tmp_path}/own",
    }
    for source, expected in sources.items():
        config = parse_config({"store": "store", "base_model": {"source": source}})
        assert WorkerSettings.from_config(config, {}, threads=1).model(BASE).source == expected
    assert settings.model(BASE).source == "org/model"
    photographs = parse_config({"weights": "weights", "faces": {"backend": "deepface"}})
    detector = WorkerSettings.from_config(photographs, {}, threads=1).model(DETECTOR)
    assert detector.place.source == settings.model(BASE).place.source


def test_faceid_config_explains_every_leaf_of_the_configuration():
    from flows.cli import cli

    text = " ".join(CliRunner().invoke(cli, ["config"]).output.split())

    def leaves(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from leaves(field.annotation, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", field.description

    for path, description in leaves(NightlyConfig):
        assert f" {path} = " in text, path
        # Whether it is a reconstruction, and the preset's value, stand beside the key.
        meaning = re.split(r" \(Reconstruction| The preset's value", description)[0]
        assert " ".join(meaning.split())[:40] in text, path


@pytest.mark.parametrize("study", studies().values(), ids=lambda study: study.name)
def test_every_variant_of_a_study_is_a_configuration(study):
    for variant in study.variants:
        for condition in study.conditions:
            asked = changed(NightlyConfig(), {**variant.settings, **condition.settings}, source=variant.label)
            assert not (asked.identity_use().adjusts and asked.method().needs_prior), "a mixture cannot be adjusted"


def test_the_form_has_a_description_for_every_field():
    schema = NightlyConfig.model_json_schema()
    for definition in schema["$defs"].values():
        for name, field in definition.get("properties", {}).items():
            assert field.get("description"), f"{definition['title']}.{name}"


def test_exit_statuses_of_the_command():
    import subprocess
    import sys

    def status(*arguments: str) -> int:
        return subprocess.run([sys.executable, "-m", "flows", *arguments], capture_output=True).returncode

    assert status("--version") == 0
    assert status("run", "--set", "generate.seeds=0") == 3
    assert status("run", "--nonsense") == 3
    assert status("run", "--identities", "/no/such/manifest.csv", "--executor", "inline") == 3


def test_a_time_of_day_has_no_offset_and_a_date_is_no_number(monkeypatch):
    assert parse_config({"run": {"finish_by": "05:30"}}).run.finish_by == dt.time(5, 30)
    for wrong in ("05:30Z", "05:30+09:00"):
        with pytest.raises(ConfigurationError, match=r"run\.timezone"):
            parse_config({"run": {"finish_by": wrong}})
    for wrong in ("0", "20261120", 20261120):
        with pytest.raises(ConfigurationError, match="write the date as in 2026-11-20"):
            parse_config({"run": {"date": wrong}})
        with pytest.raises(ValueError, match="write the date as in"):
            OnePerson(identity_id="ann", photo="ann.png", consent_until=wrong)


def test_a_home_folder_is_found_wherever_a_path_may_stand(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = parse_config({
        "identities": "~/people.csv", "weights": "~/weights", "base_model": {"source": "~/model"},
        "generate": {"grid": "~/mine.yaml"}, "personalize": {"names_file": "~/names.txt"},
        "faces": {"parser_source": "~/parser"}, "metrics": {"textfile": "~/faceid.prom"},
    })  # fmt: skip
    paths = (
        found.identities, found.weights, found.base_model.source, found.generate.grid, found.personalize.names_file,
        found.faces.parser_source, found.metrics.textfile,
    )  # fmt: skip
    assert all(path.startswith(f"{tmp_path}/") for path in paths)
    assert parse_config({"weights": "s3://bucket/~x"}).weights == "s3://bucket/~x"


def test_a_printed_command_reaches_the_same_store():
    config = parse_config({
        "store": "s3://my bucket/it's", "s3": {"endpoint_url": "http://minio:9000", "region": "eu", "path_style": True}
    })  # fmt: skip
    words = shlex.split(store_options(config))
    read = parse_config({"store": words[1]})
    for setting in words[3::2]:
        read = changed(read, dict([parse_setting(setting)]), source="test")
    assert (read.store, read.s3) == (config.store, config.s3)
