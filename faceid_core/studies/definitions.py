"""What each study asks, which variants answer it, and what the paper says; no model library is imported here.

Presets and the choices of the method are read from their modules, so that a study follows what they offer.
Published claims: arXiv 2402.00631, abstract, project page and figures.
"""

from __future__ import annotations

from typing import Any, get_args

from faceid_core.config import GenerateConfig
from faceid_core.config.method import Method
from faceid_core.config.personalize import DEFAULT_PRESET
from faceid_core.config.presets import MINIATURE_SPREAD, PRESETS

from .study import Claim, Condition, Study, Variant

DEFAULT = DEFAULT_PRESET
ALONG_NAMES = "semantic-fidelity"
PAPER = "semantic-fidelity-as-published"
# Backends of score.scorers that choose settings; all others report. Neither may do the other's work.
SELECTION_SCORERS = ("miniature-selection", "photographs-selection")

# The paper's training prompt in its later versions' figure, and in its first version's. On a close-up the first says
# the framing; with the second the tokens must learn it along with the person.
FRAMING_SAID = Condition("said", "framing said", "a photo of the face of {}")
FRAMING_UNSAID = Condition("unsaid", "framing unsaid", "a photo of {}")
CONDITIONS = (FRAMING_SAID, FRAMING_UNSAID)

TUNING_SAMPLES = 1000
# As coefficients have them; of free vectors in the unit of the miniature's embeddings.
TUNING_RATES = (0.02, 0.06, 0.15, 0.4, 1.0)
TUNING_ANGLES = (0.01, 0.02, 0.04, 0.1, 0.2)  # of riemannian steps, in radians
TUNING_STEPS = (100, 200)


def studies() -> dict[str, Study]:
    """Every study that the method as it is can be asked, by name."""
    found = [_attention_weight(), _pairs(), _kv_split(), _attention_loss(), _presets(), _several()]
    if "block" in _values("parametrization"):
        found.append(_parametrization())
    if "use_strength" in GenerateConfig.model_fields:
        found.append(_dial())
    found.append(_tune())
    return {study.name: study for study in found}


def _values(field_name: str) -> tuple:
    """The values that a choice of the method offers; empty if the method has no such choice."""
    about = Method.model_fields.get(field_name)
    return get_args(about.annotation) if about else ()


def _method(label: str, preset: str = PAPER, group: str = "", **changes: Any) -> Variant:
    settings = {f"personalize.method.{name}": value for name, value in changes.items()}
    return Variant(label, {"personalize.preset": preset, **settings}, group)


def _attention_weight() -> Study:
    weights = (0.0001, 0.001, 0.003, 0.01, 0.05)
    labels = [f"{weight:g}" for weight in weights]
    # Without the loss rather than with weight 0: the same tokens, and shared with the study of the loss.
    variants = [_method("0", attention_target="none")]
    variants += [
        _method(label, attention_weight=weight) for label, weight in zip(labels, weights, strict=True)
    ]
    return Study(
        name="lambda",
        question="How strongly should the attention of the person's prompt be held to the class word's?",
        variants=tuple(variants),
        default="0.003",
        ordered=True,
        conditions=CONDITIONS,
        claims=(
            Claim(
                "With too small a lambda the prompt is ignored.", "concepts_fraction", "0.003", ("0.0001",)
            ),
            Claim("0.01 and 0.05 under-fit the identity.", "identity_fraction", "0.003", ("0.01", "0.05")),
            Claim("0.003 is the best of the five.", "balance", "0.003", ("0.0001", "0.001", "0.01", "0.05")),
        ),
    )


def _pairs() -> Study:
    numbers = (1, 3, 5, 7, 9, 10)
    return Study(
        name="pairs",
        question="Into how many stages, each with a pair of K and V vectors, should the diffusion be cut?",
        variants=tuple(_method(str(number), stages=number) for number in numbers),
        default="5",
        ordered=True,
        conditions=CONDITIONS,
        claims=(
            Claim(
                "Of 1, 3, 5, 7, 9 and 10 pairs, five are used.",
                "balance", "5", tuple(str(number) for number in numbers if number != 5),
            ),
        ),
    )  # fmt: skip


def _kv_split() -> Study:
    return Study(
        name="kv-split",
        question="Does a person need vectors of their own for keys and for values?",
        variants=(_method("on", kv_split=True), _method("off", kv_split=False)),
        default="on",
        conditions=CONDITIONS,
        claims=(
            Claim("Separate K and V vectors do better than shared ones.", "balance", "on", ("off",)),
            Claim(
                "Attributes of the face fail where K or V does not fit; apart they are right more often.",
                "attribute_obeyed", "on", ("off",),
            ),
        ),
    )  # fmt: skip


def _attention_loss() -> Study:
    without, ti, ti_with = "without", "textual-inversion", "textual-inversion+attention"
    # Each preset has the rate and steps that were best for it; this one differs from ti_with in the loss alone.
    ti_without = "textual-inversion as with attention"
    variants = [_method("with"), _method(without, attention_target="none")]
    variants += [
        _method(f"target {target.replace('_', ' ')}", attention_target=target)
        for target in _values("attention_target")
        if target not in ("none", "reference")
    ]
    variants += [_method(ti, ti), _method(ti_with, ti_with)]
    variants += [_method(ti_without, ti_with, attention_target="none")]
    return Study(
        name="attention-loss",
        question="What does the attention loss change, here and on Textual Inversion?",
        variants=tuple(variants),
        default="with",
        conditions=CONDITIONS,
        claims=(
            Claim(
                "Without the loss the prompt's other words are ignored.",
                "concepts_fraction",
                "with",
                (without,),
            ),
            Claim(
                "Without the loss the token's attention spreads over the picture.",
                "attention_outside",
                "with",
                (without,),
            ),
            Claim(
                "Added to Textual Inversion, the loss makes it obey the prompt.",
                "concepts_fraction",
                ti_with,
                (ti_without,),
            ),
            Claim(
                "Added to Textual Inversion, the loss keeps the attention on the person.",
                "attention_outside",
                ti_with,
                (ti_without,),
            ),
        ),
    )


# Identity on prompted pictures as the authors' user study plots it, of methods that are presets here:
# ours 0.258, ProSpect 0.193, Celeb-Basis 0.184, Textual Inversion 0.176 (read off the plot, +-0.001).
_PUBLISHED_ORDER = (PAPER, "prospect", "celeb-basis", "textual-inversion")


# docs/tuning.md, "How the default came about", has the rows.
_BY_HAND = (
    "about twenty trials by hand of starts, directions, shared parts and lambdas came before its equal trials, "
    "on four tuning people with framing said; no preset without them had such"
)
# "First trials of the name prior" there.
_PRIOR_BY_HAND = (
    "the trials of `semantic-fidelity` and eight of the prior's weight and rate, on twelve tuning people in both "
    "conditions, came before its equal trials"
)


def _presets() -> Study:
    order = [name for name in _PUBLISHED_ORDER if name in PRESETS]
    claims = [
        Claim(
            f"Identity on prompted pictures: {better} above {worse}.", "identity_fraction", better, (worse,)
        )
        for index, better in enumerate(order)
        for worse in order[index + 1 :]
    ]
    return Study(
        name="presets",
        question="How does the published method compare with its relatives?",
        variants=tuple(_method(name, name) for name in PRESETS),
        default=DEFAULT,
        conditions=CONDITIONS,
        claims=tuple(claims),
        remarks={ALONG_NAMES: _BY_HAND, "semantic-fidelity+prior": _PRIOR_BY_HAND},
    )


def _several() -> Study:
    return Study(
        name="several",
        question="Are two people in one picture drawn as themselves?",
        variants=(_method("with"), _method("without", attention_target="none"), _method(DEFAULT, DEFAULT)),
        default="with",
        of_pairs=True,
    )


def _parametrization() -> Study:
    # A rate for coefficients is none for free vectors, and none for a network's weights: the free preset's; ProSpect's
    # own, and ten times that.
    return Study(
        name="parametrization",
        question="What should be learned of a person: free vectors, a transformer block, or a place among known names?",
        variants=(
            _method("names", ALONG_NAMES),
            _method("names without a shared part", ALONG_NAMES, shared_vector=False),
            _method(
                "free from the mean name",
                ALONG_NAMES,
                parametrization="free",
                learning_rate=PRESETS[PAPER].learning_rate,
            ),
            _method("free from the class word", PAPER),
            _method("block rate 0.0001", PAPER, parametrization="block", learning_rate=0.0001),
            _method("block rate 0.001", PAPER, parametrization="block", learning_rate=0.001),
        ),
        default="names",
    )


def _dial() -> Study:
    # Of vectors, since a mixture of names has none whose length or direction could be adjusted.
    preset = {"personalize.preset": ALONG_NAMES}

    def use(label: str, **changes: Any) -> Variant:
        return Variant(label, preset | {f"generate.use_{name}": value for name, value in changes.items()})

    def adjust(label: str, length: float, direction: float) -> Variant:
        settings = {"generate.adjust_length": length, "generate.adjust_direction": direction}
        return Variant(label, preset | settings)

    strengths = (0.25, 0.5, 0.75)
    return Study(
        name="dial",
        question="How do likeness and obedience trade when pictures use a part of the person only?",
        variants=(
            *(use(f"strength {strength:g}", strength=strength) for strength in strengths),
            use("whole"),
            use("only K", kv="k"),
            use("only V", kv="v"),
            use("stages 1 to 3", stages=(1, 2, 3)),
            use("stages 3 to 5", stages=(3, 4, 5)),
            # Half of the way in length and a fifth of the angle, as in the public code of arXiv 2506.22685.
            adjust("adjusted as published", 0.5, 0.2),
            adjust("length of the class word", 1.0, 0.0),
        ),
        default="whole",
    )


def _tuning_rates(method: Method) -> tuple[float, ...]:
    """As many learning rates for every preset, in the unit that its parameters have."""
    if method.optimizer == "riemannian":
        return TUNING_ANGLES
    if method.parametrization == "free":
        return tuple(rate / MINIATURE_SPREAD for rate in TUNING_RATES)
    return TUNING_RATES


def _tune() -> Study:
    variants = []
    for preset, method in PRESETS.items():
        for steps in TUNING_STEPS:
            for rate in _tuning_rates(method):
                changes = {
                    "learning_rate": rate, "steps": steps, "samples_per_step": TUNING_SAMPLES // steps,
                }  # fmt: skip
                variants.append(_method(f"{preset} rate {rate:.3g} steps {steps}", preset, preset, **changes))
    return Study(
        name="tune",
        question=f"Which learning rate and number of steps suits each preset at {TUNING_SAMPLES} samples a person?",
        variants=tuple(variants),
        default=f"{DEFAULT} rate {TUNING_RATES[-1]:g} steps {TUNING_STEPS[-1]}",
        selects=True,
        conditions=CONDITIONS,
        people=12,
    )
