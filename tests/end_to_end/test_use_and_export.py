"""Using part of a person, several people and export, on the store of a small run."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from faceid_core.errors import ConfigurationError, FaceidError
from flows import export
from flows.cli import cli
from tests.end_to_end.test_inline_folder import execute

GRID = """\
name: four
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: snow, text: "a photo of V* in the snow", category: scene, expected: {scene: snow}}
  - {id: plain, text: "a photo of the face of V*", category: scene}
  - {id: night, text: "a photo of V* at night", category: scene, expected: {scene: night}}
"""


def ask(*arguments):
    answer = CliRunner().invoke(cli, [*arguments])
    assert answer.exit_code == 0, answer.output
    return answer.output


def shards(run):
    return {
        subject.identity_id or subject.name: subject.manifests["generate"].outputs["pictures.parquet"].digest
        for subject in run.subjects.values()
    }


def test_another_use_draws_the_people_again_and_nobody_else(small, people, tmp_path):
    store = str(tmp_path / "store")
    usual, _ = execute(small(store, people))
    used = {"use_stages": [1, 2], "use_kv": "v", "use_strength": 0.5}
    part, ended = execute(small(store, people, generate=used))
    assert ended.exit_status == 0
    assert part.computed.get("personalize", 0) == 0, "the people are learned once"
    before, after = shards(usual), shards(part)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"ann", "bob"}, "the class word and named people are never drawn again"
    cells = json.loads(
        ask("query", "select count(distinct cell) as n from images where subject_kind = 'person'",
            "--store", store, "--format", "json")
    )  # fmt: skip
    assert cells == [{"n": 24}], "two people, six pictures, whole and in part, each with its own cell"
    again, _ = execute(small(store, people, generate={"use_stages": [1, 2, 3, 4, 5]}))
    assert again.computed.get("generate", 0) == 0, "every stage is the default"


@pytest.fixture
def learned(small, people, tmp_path):
    """The options by which commands find a store with two people, and a grid of four prompts."""
    store = str(tmp_path / "store")
    execute(small(store, people))
    grid = tmp_path / "four.yaml"
    grid.write_text(GRID)
    return ["--store", store, "--set", f"generate.grid={grid}", "--set", "generate.steps=2", "--set", "generate.seeds=1"]


def test_draw_and_export_from_the_command_line(learned, tmp_path, monkeypatch):
    picture = tmp_path / "two.png"
    both = ["--identity", "ann", "--identity", "bob", "--prompt", "a photo of V1* and V2* on the beach"]
    told = ask("draw", *both, "--seeds", "1", "--stages", "1,3-5", "--kv", "k", "--strength", "0.7",
        "--out", str(picture), *learned)  # fmt: skip
    assert "draws one where the prompt names several" in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    odd = ["--prompt", "V*", "--set", "generate.width=90"]
    wrong = CliRunner().invoke(cli, ["draw", "--identity", "ann", *odd, *learned])
    assert isinstance(wrong.exception, ConfigurationError) and "multiples of 4 pixels" in str(wrong.exception)

    file = tmp_path / "learned_embeds.safetensors"
    told = ask("tokens", "ann", "--format", "textual-inversion", "--distill-steps", "2", "--distill-vectors", "2",
               "--measure", "--out", str(file), *learned)  # fmt: skip
    assert "of the person's effect on the network's predictions" in told
    for under_way in (
        "drawing pictures to learn from: ",
        "distilling, steps: 1 of 2",
        "drawing with the class word: ",
    ):
        assert under_way in told
    assert all(name in told for name in ("native tokens", "exported file", "class word", "identity"))
    refused = CliRunner().invoke(
        cli, ["tokens", "ann", "--format", "textual-inversion", "--measure", "--set", "score.metrics=[attention]",
              "--out", str(tmp_path / "none"), *learned],
    )  # fmt: skip
    assert isinstance(refused.exception, ConfigurationError) and "--measure needs" in str(refused.exception)
    assert not (tmp_path / "none").exists()

    def breaks(*arguments, progress):
        assert arguments[-1] == ("identity", "detection"), "what the run measures"
        raise FaceidError("scoring broke")

    monkeypatch.setattr(export, "measure", breaks)
    kept = CliRunner().invoke(
        cli, ["tokens", "ann", "--format", "textual-inversion", "--distill-steps", "2", "--measure", "--set",
              "score.metrics=[identity, detection]", "--out", str(tmp_path / "kept"), *learned],
    )  # fmt: skip
    assert str(kept.exception) == "scoring broke" and (tmp_path / "kept").stat().st_size > 100
    with safe_open(file, "pt") as opened:
        (word,) = opened.keys()
        assert opened.get_tensor(word).shape[0] == 2 and f"in prompts the person is {word}" in told
    key = ask("key", "ann", "--store", learned[1]).split()[-1]
    assert word == f"<{key[:8]}>", "two people's files can be loaded side by side, and tell no id"
    long = [
        "--script",
        str(tmp_path / "s.py"),
        "--script-prompt",
        "V* " + "photo " * 40,
        "--out",
        str(tmp_path / "n"),
    ]
    started = CliRunner().invoke(cli, ["tokens", "ann", "--format", "textual-inversion", *long, *learned])
    assert "--script-prompt takes" in str(started.exception) and not (tmp_path / "n").exists()
    assert "drawing" not in started.output, "refused before the minutes of distilling"
    with safe_open(file, "pt") as opened:
        fields = json.loads(opened.metadata()["faceid"])
    assert f"loses {fields['lost_share']:.1%}" in told and fields["distill_steps"] == 2
