"""Small texts that stand for very much, and other YAML that no reader should believe."""

from __future__ import annotations

import pytest

from faceid_core.config import load_config, parse_setting
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.grid import load_grid, parse_grid
from faceid_core.yaml_text import MOST_BYTES, read_yaml
from flows.cli_automations import read_automations


def laughs(key: str) -> str:
    """385 bytes that stand for nine to the eighth values."""
    lines, before = ['a: &a ["x","x","x","x","x","x","x","x","x"]'], "a"
    for name in "bcdefgh":
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
        before = name
    return "\n".join([*lines, f"{key}: *{before}"])


MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 7)}]}}\n" for n in range(1, 9)
)


def refusal(text, **more) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(text, source="night.yaml", what="a configuration", **more)
    assert str(caught.value).startswith("night.yaml ") and len(str(caught.value)) < 1_000
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (laughs("name"), "stands for more than 200000 values (line 6)"),
        (MERGES, "stands for more than 200000 values"),
        ("name: &n " + "x" * 100_000 + "\nall: [" + "*n, " * 400 + "]", "stands for more than 200000 values"),
        ("a: &a [*a]", "refers to itself (line 1)"),
        ("[" * 70 + "]" * 70, "nested too deeply (line 1)"),
        ("[" * 20_000, "nested too deeply (line 1)"),
        ("- " * 20_000, "nested too deeply (line 1)"),
        ("? " * 20_000, "nested too deeply (line 1)"),
        ("[" + ("[" * 60 + "]" * 60 + ",") * 10 + "[" * 70, "nested too deeply (line 1)"),
        ("\n".join(["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300)]), "nested too deeply"),
        ("name: a\nstore: s\nname: b", "names 'name' twice (line 1 and line 3)"),
        ("run: {force: true, force: false}", "names 'force' twice"),
        ("n: " + ":".join(["59"] * 20_000), "a number of 59999 characters"),
        ("n: 0x" + "f" * 5_000, "a number of 5002 characters"),
        ("x" * (MOST_BYTES + 1), "larger than 256 KiB"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a PNG picture, not a configuration"),
        (b"PK\x03\x04" + bytes(20), "is a zip archive, not a configuration"),
        ("name: nächtlich".encode("latin-1"), "is not UTF-8 text"),
        ("{broken", "is not valid YAML"),
        ("name: !!timestamp foo", "is not valid YAML"),
        ("name: !!bool foo", "is not valid YAML"),
        ("name: !!int ''", "is not valid YAML"),
        ("name: !!int '_'", "is not valid YAML"),
        ("name: !!float ''", "is not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_refused(text, wanted):
    assert wanted in refusal(text)


def test_anchors_and_merges_of_ordinary_files_are_read():
    text = "common: &c {seeds: 2}\nmine: {<<: *c, steps: 3}\nyours: {<<: *c, seeds: 5}\nlist: [*c, *c]\n"
    assert read_yaml(text, source="a", what="b") == {
        "common": {"seeds": 2},
        "mine": {"seeds": 2, "steps": 3},
        "yours": {"seeds": 5},
        "list": [{"seeds": 2}, {"seeds": 2}],
    }
    assert read_yaml("", source="a", what="b") is None and read_yaml(
        b"\xef\xbb\xbfa: 1", source="a", what="b"
    )


@pytest.mark.parametrize("key", ["name", "generate", "run", "personalize"])
def test_no_key_of_a_configuration_takes_nested_anchors(tmp_path, key):
    file = tmp_path / "night.yaml"
    file.write_text(laughs(key))
    assert file.stat().st_size < 400
    with pytest.raises(ConfigurationError, match="more than 200000 values"):
        load_config(file)


def test_other_readers_of_yaml_are_bounded_too(tmp_path):
    (tmp_path / "own.yaml").write_text(laughs("trigger"))
    with pytest.raises(ConfigurationError, match="more than 200000 values"):
        read_automations((tmp_path,))
    with pytest.raises(Exception, match="nested too deeply"):
        parse_setting("generate.batch=" + "[" * 70 + "]" * 70)
    with pytest.raises(ConfigurationError, match="more than 200000 values"):
        parse_grid(laughs("prompts"), source="grid.yaml")


def test_of_many_problems_the_first_twenty_are_told(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text("\n".join(f"key{n}: 1" for n in range(500)))
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    assert str(caught.value).count("unknown key") == 20 and "and 480 more" in str(caught.value)
    prompts = "".join(f"  - {{id: A{n}, text: none, category: scene}}\n" for n in range(300))
    with pytest.raises(ConfigurationError, match=r"grid.yaml has 600 problem(?s:.)*and 580 more$") as caught:
        parse_grid(f"name: g\nprompts:\n{prompts}", source="grid.yaml")
    wrong = "".join(f"  - {{id: a{n}, text: a V*, category: zoo}}\n" for n in range(300))
    with pytest.raises(ConfigurationError, match=r"grid.yaml has 300 problem(?s:.)*and 280 more$"):
        parse_grid(f"name: g\nprompts:\n{wrong}", source="grid.yaml")


def test_a_value_is_shown_briefly(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text("name: '" + "x" * 200_000 + "'\nstore: [" + "[1, 2], " * 1_000 + "]\nweights: [1, 2]\n")
    with pytest.raises(ConfigurationError, match=r"a list of 1000(?s:.)*\[1, 2\]") as caught:
        load_config(file)
    assert len(str(caught.value)) < 1_000


def test_a_grid_of_millions_of_prompts_is_refused_by_its_size(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("name: g\nprompts:\n" + "  - {id: a, text: a V*, category: scene}\n" * 30_000)
    with pytest.raises(ConfigurationError, match="larger than 1024 KiB, too large to be a prompt grid"):
        load_grid(file)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "- {id: one, text: a V*, category: scene}\n",
            "a list of 1; a grid is a mapping of name and prompts",
        ),
        ("- a photo of V*\n- a drawing of V*\n", "a list of 2; a grid is a mapping"),
        ("", "holds nothing; a grid is"),
        ("a photo of V* on the beach", "one value ('a photo of V* on the beach'); a grid is"),
        ("name: g\ntexts: [a V*]\n", "a mapping of name, texts, and no prompts; a grid is"),
        ("name: g\nprompts: {a: a V*}\n", "prompts that are no list; a grid is"),
    ],
)
def test_what_is_no_grid_is_told_what_a_grid_is(text, wanted):
    with pytest.raises(ConfigurationError) as caught:
        parse_grid(text, source="my.yaml")
    assert wanted in str(caught.value) and "{id: beach" in str(caught.value)
