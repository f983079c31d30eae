"""Preflight: texts that the base model cannot read and settings that do not fit it are found before anything is computed.

Without it, a prompt that is too long would be noticed when the first picture of it is drawn, after every identity was
personalized. Only configuration files and tokenizers are read; no model is loaded and no model library imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from faceid_core.config.method import stage_boundaries
from faceid_core.diffusion.token_count import TokenCounter
from faceid_core.errors import ConfigurationError, listed
from faceid_core.evaluate.grid import Prompt
from faceid_core.identity import Identity
from faceid_core.personalize.known_names import known_names, require_names
from faceid_core.personalize.prompts import split_prompt, training_prompt
from faceid_core.stages.plan import Plan
from faceid_core.weights.resolve import ResolvedModels

# Start and end of the text take two places of a context.
_FRAME = 2
_LINES_NAMED = 5

Count = Callable[[str], int]
Counts = Mapping[str, Count]


def require_fit(plan: Plan, people: Sequence[Identity], named: Sequence[str] = ()) -> None:
    """Refuse a run whose texts or settings the base model cannot use.

    Args:
        plan: with the grid, the method and the base model.
        people: whose class words replace `V*` in the floor's pictures.
        named: names that replace it in the ceiling's.

    Raises:
        ConfigurationError: with every problem, one per line.
        MissingWeights: a tokenizer's files are not there.
    """
    problems = [*_settings(plan), *_concepts(plan)]
    if problems:
        raise _refusal(plan.base.name, problems)
    _require(plan.base.name, plan.tokenizers, lambda counts: list(_texts(plan, people, named, counts)))


def require_room(found: ResolvedModels, texts: Mapping[str, str], vectors: int) -> None:
    """Refuse prompts in which a person's vectors find no room.

    Args:
        found: the base model and its tokenizers.
        texts: what a prompt is called in messages -> the prompt, with `V*` once.
        vectors: token positions that the person takes.

    Raises:
        ConfigurationError: with every problem, one per line, or a prompt without its one placeholder.
        MissingWeights: a tokenizer's files are not there.
    """
    limit = found.base.context_length - _FRAME

    def problems(counts: Counts) -> list[str]:
        return [
            f"{name} takes {tokens} tokens, {vectors} of them the person's, {encoder} reads {limit}; shorten it: {text!r}"
            for encoder, count in counts.items()
            for name, text in texts.items()
            if (tokens := sum(map(count, split_prompt(text))) + vectors) > limit
        ]

    _require(found.base.name, found.tokenizers, problems)


def _require(base: str, tokenizers: Mapping[str, Path], problems: Callable[[Counts], Sequence[str]]) -> None:
    """Refuse where our token counters find problems and the model's own tokenizers confirm them."""
    counters = {encoder: TokenCounter(folder) for encoder, folder in tokenizers.items()}
    if not problems({name: each.count for name, each in counters.items()}):
        return
    # The model's own tokenizers decide; their import takes seconds.
    found = problems({name: each.count_exactly for name, each in counters.items()})
    if found:
        raise _refusal(base, found)


def _refusal(base: str, problems: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(
        f"base model {base!r} cannot run this configuration, {len(problems)} problem(s):\n{listed(problems)}"
    )


def _settings(plan: Plan) -> Iterator[str]:
    """Numbers of the method and of the sampler against the model's noise schedule."""
    total, chosen = plan.base.training_timesteps, plan.config.generate
    try:
        stage_boundaries(plan.method.stages, total, plan.method.boundaries)
    except ConfigurationError as error:
        yield f"personalize.method: {error}"
    try:
        split_prompt(training_prompt(plan.method.template))
    except ConfigurationError as error:
        yield f"personalize.method.template: {error}"
    if plan.method.needs_prior and plan.config.identity_use().adjusts:
        yield (
            "generate.adjust_length and generate.adjust_direction: with preset "
            f"{plan.config.personalize.preset} a person is a mixture of known names, without vectors whose length or "
            "direction could be adjusted; leave both at 0, use generate.use_strength, or the preset semantic-fidelity"
        )
    try:
        plan.base.latent_shape_of(chosen.size(plan.base.resolution))
    except ConfigurationError as error:
        yield str(error)
    # diffusers' other samplers take timesteps twice instead.
    if chosen.sampler == "DDIMScheduler" and chosen.steps > total:
        yield f"generate.steps: {chosen.sampler} cannot do {chosen.steps} steps of {total} training timesteps"


def _concepts(plan: Plan) -> Iterator[str]:
    """Concepts that a prompt expects and the scorers can never name: all pictures would count as missing them."""
    if plan.config.score.of_photographs or "concepts" not in plan.config.score.metrics:
        return
    from faceid_core.miniature.concepts import ATTRIBUTES, CLOTHES, OBJECTS, SCENES

    known = {"scene": SCENES, "attribute": ATTRIBUTES, "action": OBJECTS, "clothing": CLOTHES}
    for prompt in plan.grid.prompts:
        where = f"prompt {prompt.id!r} of grid {plan.grid.name!r}"
        for kind, names in prompt.expected.items():
            for name in (each for each in names if each not in known[kind]):
                words = ", ".join(known[kind])
                yield f"{where}: expected {kind} {name!r} is none that the scorers name; use one of: {words}"
            if kind != "attribute" and len(names) > 1:
                yield f"{where}: a picture has one {kind}, and {len(names)} are expected"


def _texts(plan: Plan, people: Sequence[Identity], named: Sequence[str], counts: Counts) -> Iterator[str]:
    """Every text that would not find room in a context, as each text encoder's tokenizer counts."""
    limit, method = plan.base.context_length - _FRAME, plan.method
    lines: dict[str, list[int]] = {}
    for person in people:
        lines.setdefault(person.class_word, []).append(person.line or 0)
    for encoder, count in counts.items():
        room = f"{encoder} reads {limit}"
        around = sum(map(count, split_prompt(training_prompt(method.template))))
        if around + method.vectors > limit:
            yield (
                f"personalize.method.template: {method.template!r} takes {around + method.vectors} tokens, "
                f"{method.vectors} of them the person's, {room}; shorten it"
            )
        words = {word: count(word) for word in lines}
        for word in (word for word, tokens in words.items() if not tokens):
            yield f"class word {word!r}{_of_lines(lines[word])} has no token for {encoder}; use a word such as 'person'"
        names = {name: count(name) for name in named}
        for prompt in plan.grid.prompts:
            yield from _too_long(prompt, count, method.vectors, words, lines, names, limit, room)
        if method.initial_embedding != "class_word" or method.needs_prior:
            yield from _too_few_names(plan, encoder, count)
    yield from _cut_differently(plan, counts)


def _too_long(
    prompt: Prompt,
    count: Count,
    vectors: int,
    words: Mapping[str, int],
    lines: Mapping[str, Sequence[int]],
    names: Mapping[str, int],
    limit: int,
    room: str,
) -> Iterator[str]:
    """One prompt with a person, with each class word and with each name in the place of `V*`."""
    around = sum(map(count, split_prompt(prompt.text)))
    if around + vectors > limit:
        yield (
            f"prompt {prompt.id!r} takes {around + vectors} tokens, {vectors} of them the person's, {room}; "
            f"shorten it: {prompt.text!r}"
        )
        return
    for kind, texts in (("class word", words), ("name", names)):
        for text, tokens in texts.items():
            if around + tokens > limit:
                where = _of_lines(lines[text]) if kind == "class word" else ""
                yield (
                    f"prompt {prompt.id!r} takes {around + tokens} tokens with the {kind} {text!r}{where} ({tokens} of "
                    f"them), {room}; shorten the prompt or the {kind}"
                )


def _of_lines(lines: Sequence[int]) -> str:
    """The manifest's lines of a class word, where they are known."""
    known = [str(line) for line in lines if line]
    if not known:
        return ""
    more = ", ..." if len(known) > _LINES_NAMED else ""
    return f" of line{'s' if len(known) > 1 else ''} {', '.join(known[:_LINES_NAMED])}{more}"


def _too_few_names(plan: Plan, encoder: str, count: Count) -> Iterator[str]:
    source = plan.config.personalize.names_file or plan.method.known_names
    if plan.prior is None:
        names = known_names(plan.method.known_names, plan.base.name)
    else:
        names = plan.prior.parameters["names"]
    try:
        require_names(sum(count(name) == 2 for name in names), source, encoder)
    except ConfigurationError as error:
        yield f"personalize.method: {error}"


def _cut_differently(plan: Plan, counts: Counts) -> Iterator[str]:
    """The person has one place in the joined contexts of several text encoders, so they must agree on it."""
    texts = {"personalize.method.template": training_prompt(plan.method.template)}
    texts |= {f"prompt {prompt.id!r}": prompt.text for prompt in plan.grid.prompts}
    for name, text in texts.items():
        before = split_prompt(text)[0]
        if len({count(before) for count in counts.values()}) > 1:
            yield (
                f"{name}: the tokenizers of {', '.join(counts)} cut {before!r} differently, so the person has no "
                "common place in it; use a model whose text encoders share a vocabulary, or change the text"
            )
