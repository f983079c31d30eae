"""What is knowable before a run is refused before it: texts against the tokenizers, settings against the schedule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import CLIPTokenizer

from faceid_core.config import parse_config
from faceid_core.diffusion.token_count import TokenCounter
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.identity import Identity
from faceid_core.plan.planning import plan_run
from faceid_core.run.open import open_run
from faceid_core.run.preflight import require_fit
from faceid_core.run.reporter import LogReporter
from faceid_core.stages.plan import Plan
from faceid_core.weights.describe import source_folder
from tests.helpers.architectures import clip_tokenizer
from tests.helpers.pretend_night import pretend_config, write_manifest
from tests.helpers.tiny_pipeline import words_and_merges

MINIATURE_TOKENIZER = source_folder("miniature") / "tokenizer"
ANN = Identity("ann", "/nowhere.png", "person", line=3)
TEXTS = (
    "a photo of the face of Ann's  Tower-42, réglée;\n 100 %  it's",
    "e\u0301t\u00e9 日本語 <|endoftext|> ... Can't!! ²",
    "",
)


def words(count: int) -> str:
    """A text of so many tokens."""
    return " ".join(["photo"] * count)


def grid_file(folder: Path, **prompts: str) -> str:
    """A grid of one's own with these prompts."""
    rows = [{"id": name, "text": text, "category": "plain"} for name, text in prompts.items()]
    (folder / "grid.yaml").write_text(yaml.safe_dump({"name": "own", "prompts": rows}))
    return str(folder / "grid.yaml")


def plan_of(**sections) -> Plan:
    return Plan.from_config(parse_config(sections))


def refusal(plan: Plan, *people: Identity, named=()) -> str:
    with pytest.raises(ConfigurationError) as caught:
        require_fit(plan, people or [ANN], named)
    return str(caught.value)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder with CLIP's own tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    clip_tokenizer().save_pretrained(folder)
    return folder


def two_encoders(plan: Plan, *folders: Path) -> Plan:
    """The plan for a base model with two text encoders at Stable Diffusion's layout."""
    tokenizers = dict(zip(("text_encoder", "text_encoder_2"), folders, strict=True))
    return replace(plan, base=replace(plan.base, name="sdxl", context_length=77), tokenizers=tokenizers)


def test_tokens_are_counted_as_the_model_s_own_tokenizer_does(published, tmp_path):
    whole = CLIPTokenizer.from_pretrained(published, local_files_only=True)
    whole.backend_tokenizer.model.save(str(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    for folder in (MINIATURE_TOKENIZER, published, tmp_path):
        own, counter = CLIPTokenizer.from_pretrained(folder, local_files_only=True), TokenCounter(folder)
        for text in TEXTS:
            expected = len(own(text, add_special_tokens=False).input_ids) if text else 0
            assert counter.count(text) == counter.count_exactly(text) == expected, text


def test_files_that_are_no_tokenizer_are_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"no file tokenizer\.json, nor vocab\.json"):
        TokenCounter(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": [], "merges": 3}}')
    with pytest.raises(MissingWeights, match="are those of no CLIP tokenizer"):
        TokenCounter(tmp_path)


def test_what_ships_fits():
    require_fit(plan_of(), [ANN], ["kai moreau"])
    require_fit(plan_of(generate={"grid": "laboratory"}), [ANN])


def test_a_prompt_that_is_too_long_refuses_the_run_before_anything_is_done(tmp_path):
    grid = grid_file(tmp_path, short="a photo of V*", long=f"V* {words(30)}", edge=f"V* {words(29)}")
    config = pretend_config(
        str(tmp_path / "store"),
        write_manifest(tmp_path / "people", 2),
        generate={"grid": grid},
        personalize={"preset": "textual-inversion"},
    )
    told = []
    for attempt in (lambda: open_run(config, LogReporter()), lambda: plan_run(config)):
        with pytest.raises(ConfigurationError) as caught:
            attempt()
        told.append(str(caught.value))
    assert told[0] == told[1] and not (tmp_path / "store").exists()
    assert "prompt 'long' takes 31 tokens, 1 of them the person's, text_encoder reads 30" in told[0]
    assert "'short'" not in told[0]
    # The person takes one token, and so does the class word; a name takes two.
    assert "prompt 'edge' takes 31 tokens with the name" in told[0] and "class word" not in told[0]


def test_as_many_tokens_are_counted_as_the_person_takes(tmp_path):
    grid = grid_file(tmp_path, edge=f"V* {words(28)}")
    plan = plan_of(
        generate={"grid": grid},
        personalize={"preset": "textual-inversion", "method": {"vectors": 3}},
    )
    assert "prompt 'edge' takes 31 tokens, 3 of them the person's" in refusal(plan)
    require_fit(plan_of(generate={"grid": grid}), [ANN])


def test_what_a_mixture_of_names_cannot_do_is_told_before_anyone_is_learned():
    adjusted = {"adjust_length": 0.5}
    assert "mixture of known names" in refusal(plan_of(generate=adjusted), ANN)
    require_fit(plan_of(generate=adjusted, personalize={"preset": "semantic-fidelity"}), [ANN])


def test_concepts_that_no_scorer_names_are_told(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: mine\nprompts:\n"
        "  - {id: beech, text: a photo of V* on the beach, category: scene, expected: {scene: beech}}\n"
        "  - {id: two, text: a photo of V*, category: clothing, expected: {clothing: [black suit, white coat]}}\n"
        "  - {id: fine, text: V*, category: attribute, expected: {attribute: [hat, smiling]}}\n"
    )
    told = refusal(plan_of(generate={"grid": str(grid)}), ANN)
    assert "'beech' of grid 'mine': expected scene 'beech' is none that the scorers name; use one of: beach," in told
    assert "'two' of grid 'mine': a picture has one clothing, and 2 are expected" in told and "'fine'" not in told
    require_fit(plan_of(generate={"grid": str(grid)}, score={"metrics": ["identity"]}), [ANN])


def test_a_long_class_word_is_told_with_its_lines(tmp_path):
    plan = plan_of(
        generate={"grid": grid_file(tmp_path, edge=f"V* {words(29)}")},
        personalize={"preset": "textual-inversion"},
    )
    told = refusal(
        plan, ANN, replace(ANN, class_word="young man", line=4), replace(ANN, class_word="young man", line=9)
    )
    assert "prompt 'edge' takes 31 tokens with the class word 'young man' of lines 4, 9 (2 of them)" in told
    assert told.count("\n") == 1


def test_the_training_template_and_the_names_are_checked():
    plan = plan_of(personalize={"method": {"template": f"{words(40)} {{}}"}})
    assert "personalize.method.template" in refusal(
        plan
    ) and "takes 42 tokens, 2 of them the person's" in refusal(plan)
    touching = plan_of(personalize={"method": {"template": "a photo{}"}})
    assert "touches another word" in refusal(touching)
    along_names = {"preset": "semantic-fidelity", "method": {"known_names": "public_figures"}}
    strangers = plan_of(personalize=along_names)
    assert "names of the list 'public_figures' are two tokens long for text_encoder" in refusal(strangers)


def test_settings_are_held_against_the_noise_schedule():
    plan = plan_of(
        personalize={"method": {"boundaries": [200, 400, 600, 5000]}},
        generate={"sampler": "DDIMScheduler", "steps": 500},
    )
    short = replace(plan, base=replace(plan.base, training_timesteps=400))
    assert "boundaries [200, 400, 600, 5000] do not cut 400 timesteps" in refusal(short)
    assert "DDIMScheduler cannot do 500 steps of 400" in refusal(short)


def test_both_text_encoders_of_sdxl_are_asked(published, tmp_path):
    def plan(**prompts: str) -> Plan:
        grid = grid_file(tmp_path, **prompts)
        return plan_of(generate={"grid": grid}, personalize={"preset": "textual-inversion"})

    alike = two_encoders(plan(long=f"V* {words(75)}", short="a photo of V* in a hat"), published, published)
    told = refusal(alike)
    for encoder in ("text_encoder", "text_encoder_2"):
        assert f"prompt 'long' takes 76 tokens, 1 of them the person's, {encoder} reads 75" in told
    vocabulary, merges = words_and_merges()
    ids = {token: number for number, token in enumerate(vocabulary)}
    CLIPTokenizer(vocab=ids, merges=merges).save_pretrained(tmp_path / "other")
    apart = two_encoders(plan(odd="a watercolor of V*"), published, tmp_path / "other")
    assert "prompt 'odd': the tokenizers of text_encoder, text_encoder_2 cut 'a watercolor of '" in refusal(
        apart
    )


def test_a_million_problems_are_one_short_message(tmp_path):
    grid = grid_file(tmp_path, **{f"p{number}": f"V* {words(40 + number)}" for number in range(50)})
    told = refusal(plan_of(generate={"grid": grid}))
    assert "50 problem(s)" in told and told.endswith("and 30 more") and told.count("\n") == 21


def test_the_check_imports_no_model_library():
    code = (
        "import sys; from faceid_core.config import NightlyConfig; from faceid_core.stages.plan import Plan; "
        "from faceid_core.run.preflight import require_fit; "
        "require_fit(Plan.from_config(NightlyConfig()), [], ['kai moreau']); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert printed.stdout.strip() == "[]"


def test_a_size_of_pictures_that_the_base_model_cannot_draw_is_refused():
    told = refusal(plan_of(generate={"width": 90}))
    assert "generate.height 64 and generate.width 90 must be multiples of 4 pixels" in told
    require_fit(plan_of(generate={"width": 96}), [ANN])
