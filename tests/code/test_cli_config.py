"""The configuration on the command line: --config, --set, options, faceid config and the help pages."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from faceid_core import __version__, version
from faceid_core.config import NightlyConfig, format_setting, load_config, parse_setting
from faceid_core.config.keys import METHOD_SECTION, all_keys, all_sections
from faceid_core.config.method import RECONSTRUCTION, Method
from faceid_core.errors import ConfigurationError
from flows.cli import COMMANDS, cli
from flows.options import OPTIONS, RUN_KEYS, takes_config

COLUMNS, MOST_LINES, MOST_LINES_OF_RUN = 80, 60, 80


def faceid(*arguments):
    return CliRunner().invoke(cli, [*arguments], env={"COLUMNS": "100"}, catch_exceptions=False)


def pages(command: click.Command, *path: str):
    """Every command below a group with the words that call it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from pages(command.get_command(context, name), *path, name)


def test_help_pages_are_short_and_fit_the_terminal():
    found = list(pages(cli))
    assert len(found) > len(COMMANDS)
    for path in found:
        told = CliRunner().invoke(cli, [*path, "--help"], terminal_width=COLUMNS)
        assert told.exit_code == 0, path
        lines = told.output.splitlines()
        assert len(lines) <= (MOST_LINES_OF_RUN if path == ("run",) else MOST_LINES), (path, len(lines))
        assert max(map(len, lines)) <= COLUMNS, (path, max(lines, key=len))


def test_the_list_and_the_page_of_a_command_have_the_same_sentence():
    listed = CliRunner().invoke(cli, ["--help"], terminal_width=COLUMNS).output
    for name, (_, _, sentence) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(sentence)}$", listed, re.MULTILINE), name
        page = CliRunner().invoke(cli, [name, "--help"], terminal_width=COLUMNS).output
        assert page.count(sentence) == 1, name


def test_every_command_says_more_than_its_sentence():
    for name, (_, _, sentence) in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        told = command.callback.__doc__
        assert told and sentence not in told, name


@click.command()
@takes_config(*RUN_KEYS, "generate.grid", without_file={"generate.grid": "laboratory"})
@click.option("--more", default="")
def shown(config: NightlyConfig, more: str) -> None:
    click.echo(json.dumps({"more": more, "config": config.model_dump(mode="json")}))


def parsed(*arguments: str) -> dict:
    told = CliRunner().invoke(shown, [*arguments], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return json.loads(told.output)["config"]


def test_settings_win_over_options_and_options_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("store: file\nname: kept\ngenerate: {seeds: 3, grid: photographs}\n")
    assert parsed("--config", str(file))["store"] == "file"
    found = parsed("--config", str(file), "--store", "option", "--set", "generate.seeds=5")
    assert (found["store"], found["name"], found["generate"]["seeds"]) == ("option", "kept", 5)
    assert found["generate"]["grid"] == "photographs", "without_file is for calls without a file"
    assert parsed()["generate"]["grid"] == "laboratory"
    assert parsed("--grid", "miniature")["generate"]["grid"] == "miniature"
    assert parsed("--store", "option", "--set", "store=last")["store"] == "last"
    assert parsed("--set", "store=one", "--set", "store=two")["store"] == "two"


def test_options_reach_their_keys():
    found = parsed(
        "--only", "a", "--only", "b", "--force", "--from-stage", "mask", "--workers", "3", "--executor", "inline",
        "--preset", "textual-inversion", "--identities", "people",
    )  # fmt: skip
    assert found["run"] | {"only": ["a", "b"], "force": True, "from_stage": "mask"} == found["run"]
    assert found["execution"] | {"workers": 3, "executor": "inline"} == found["execution"]
    assert (found["personalize"]["preset"], found["identities"]) == ("textual-inversion", "people")
    assert set(OPTIONS) <= set(all_keys())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("generate.seeds=2", 2),
        ("score.metrics=[identity, leakage]", ["identity", "leakage"]),
        ("personalize.method.kv_split=false", False),
        ("run.finish_by=22:30", "22:30"),
        ("run.finish_by=", None),
        ("run.from_stage=null", None),
        ("name=2024-01-01", "2024-01-01"),
        ("name='1'", "1"),
        ("weights=", ""),
        ("personalize.method.template='{} up close'", "{} up close"),
        ("store=s3://bucket/a=b", "s3://bucket/a=b"),
        ("store=a: b", "a: b"),
    ],
)
def test_a_value_is_yaml_and_text_stays_text(setting, value):
    assert parse_setting(setting) == (setting.partition("=")[0], value)


def test_a_time_needs_no_quotes_on_the_command_line():
    found = parsed("--set", "run.finish_by=22:30")
    assert found["run"]["finish_by"] == "22:30:00"


@pytest.mark.parametrize(
    "value",
    ["sd15", "hub:owner/name@main", "/models/my model", "2024", "'quoted'", " a ", "a #b", "[a", "{}"],
)
def test_a_printed_setting_is_read_back(value):
    assert parse_setting(format_setting("base_model.source", value)) == ("base_model.source", value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("generate.sedes=4", r"generate\.sedes: unknown key; did you mean 'seeds'\?"),
        ("seeds=4", r"seeds: unknown key; did you mean 'generate\.seeds'\?"),
        ("personalize.steps=4", r"did you mean 'personalize\.method\.steps' or 'generate\.steps'\?"),
        ("generat.seeds=4", r"generat: unknown key; did you mean 'generate'\?"),
        ("s3.zzz=4", r"known keys: attempts, checksums"),
        ("faces.mask_region=facehair", r"did you mean 'face_hair'\?"),
        ("score.metrics=[identiti]", r"score\.metrics\.0: .*did you mean 'identity'\?"),
        ("personalize.method.initial_embedding=mean_nam", r"did you mean 'mean_name'\?"),
        ("score.metrics=identity", r"write a list, as in \[one, two\]"),
        ("generate.seeds", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("generate.seeds=[1", "not valid YAML"),
        ("run.from_stage=mask", "needs force"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(setting, told):
    with pytest.raises((ConfigurationError, click.BadParameter), match=told):
        shown.main(["--set", setting], standalone_mode=False)


def test_a_message_says_where_the_values_came_from(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("generate: {seeds: 0}\n")
    with pytest.raises(ConfigurationError, match=r"^\S+run.yaml cannot be used"):
        load_config(file)
    with pytest.raises(ConfigurationError, match=r"^\S+run.yaml with the command line cannot be used"):
        load_config(file, {"name": "other"})
    with pytest.raises(ConfigurationError, match=r"^the command line cannot be used"):
        load_config(None, {"generate.seeds": 0})


def test_config_shows_a_section_or_a_key_and_the_values_in_effect(tmp_path):
    told = faceid("config").output
    assert max(map(len, told.splitlines())) <= 100
    for section, about in all_sections().items():
        assert (f"{section}: {about}" if section else about) in told.splitlines()
    for key in all_keys().values():
        assert told.count(f"  {key.path} = ") == 1, key.path
    section = faceid("config", "personalize").output
    assert "personalize.method.steps = " in section and "generate." not in section
    key = faceid("config", "generate.seeds").output
    assert "generate.seeds = 4  (default; 1 to 64)" in key and "generate.steps" not in key
    file = tmp_path / "run.yaml"
    file.write_text("personalize: {preset: textual-inversion, method: {steps: 7}}\n")
    told = faceid(
        "config", "generate.seeds", "personalize", "--config", str(file), "--set", "generate.seeds=9"
    ).output
    assert "generate.seeds = 9  (default 4; 1 to 64)" in told
    assert "personalize.preset = textual-inversion  (default semantic-fidelity+prior;" in told
    assert "personalize.method.steps = 7  (set here; 1 to 100000;" in told
    assert "personalize.method.stages = 1  (from preset textual-inversion; 1 to 50)" in told
    with pytest.raises(
        ConfigurationError, match=r"no key or section 'sedes'; did you mean 'generate.seeds'\?"
    ):
        faceid("config", "sedes")


def test_reconstructed_defaults_are_marked():
    marked = {key.name for key in all_keys().values() if key.is_reconstruction}
    assert marked == {
        name
        for name, field in Method.model_fields.items()
        if field.json_schema_extra["source"] == RECONSTRUCTION
    }
    for name in Method.model_fields:
        told = " ".join(faceid("config", f"{METHOD_SECTION}.{name}").output.split())
        assert ("; reconstruction)" in told) is (name in marked), name


def test_the_schema_is_what_the_configuration_accepts():
    schema = json.loads(faceid("config", "--schema").output)
    assert schema["$schema"].startswith("https://json-schema.org/")
    for path, key in all_keys().items():
        node = schema
        for part in path.split("."):
            reference = node.get("$ref", "").rpartition("/")[2]
            node = (schema["$defs"][reference] if reference else node)["properties"][part]
        assert node["description"], key.path
    assert schema["additionalProperties"] is False
    with pytest.raises(ValidationError):
        NightlyConfig.model_validate({"none": 1})


def test_the_version_names_the_revision(tmp_path, monkeypatch):
    told = faceid("--version").output
    assert re.fullmatch(
        rf"faceid {re.escape(__version__)}( \(revision [0-9a-f]{{12}}(-dirty)?\))?\n", told
    ), told
    monkeypatch.setattr(version, "source_revision", version.source_revision.__wrapped__)  # asks anew each time
    monkeypatch.setattr(version, "_ROOT", tmp_path)
    monkeypatch.setattr(version, "RECORDED", tmp_path / "revision.txt")
    monkeypatch.setattr(version, "_of_installation", lambda name: None)
    assert version.version_text() == __version__
    (tmp_path / "revision.txt").write_text("0123456789abcdef\n")
    assert version.version_text() == f"{__version__} (revision 0123456789ab)"
    (tmp_path / ".git").mkdir()
    assert version.source_revision() == "0123456789ab", "a folder that git cannot read"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.source_revision() == "0123456789ab", "no git"


def test_a_revision_that_pip_recorded_is_read(monkeypatch):
    record = {"url": "https://example.org/faceid", "vcs_info": {"vcs": "git", "commit_id": "f" * 40}}
    monkeypatch.setattr(
        version, "distribution", lambda _: SimpleNamespace(read_text=lambda _: json.dumps(record))
    )
    assert version._of_installation("faceid") == "f" * 12
    monkeypatch.setattr(version, "distribution", lambda _: SimpleNamespace(read_text=lambda _: None))
    assert version._of_installation("faceid") is None


def test_the_version_module_is_loaded_only_when_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "faceid_core.version", raising=False)
    faceid("--help")
    assert "faceid_core.version" not in sys.modules
