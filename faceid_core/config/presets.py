"""Presets: the published method and its relatives as points of one configuration space."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .method import Method

# The spread of the miniature's token embeddings (`vocabulary_of`). Rates of free vectors were chosen with the miniature
# in the embeddings' own unit; as quotients they give bitwise the same tokens there, and carry over to other models.
MINIATURE_SPREAD = 0.04464

# Learning rate, steps and samples per step of all but directional-textual-inversion: the best of the same trials, 1,000
# samples a person, with the miniature (docs/studies/tune.md).
_LONG: dict[str, Any] = {"steps": 200, "samples_per_step": 5}
_TEXTUAL_INVERSION = Method(
    stages=1, kv_split=False, attention_target="none", learning_rate=0.4 / MINIATURE_SPREAD
)
_FREE_RATE = 1.0 / MINIATURE_SPREAD


def _like(method: Method, **changes: Any) -> Method:
    return Method.model_validate(method.model_dump() | changes)


# Five stage pairs of K and V vectors with the reference attention loss (the paper). What the paper leaves open is set as
# measured best: two words that begin at the mean of known names, learned as a shared part and small own parts along the
# names' principal components.
_SEMANTIC_FIDELITY = Method(
    vectors=2,
    initial_embedding="mean_name",
    parametrization="name_basis",
    basis_size=128,
    shared_vector=True,
    stage_learning_rate_ratio=0.1,
    reference_subject="initial_embedding",
    attention_weight=0.0003,
    schedule="cosine",
    learning_rate=0.02,
    **_LONG,
)
_MIXTURE: dict[str, Any] = {
    "parametrization": "name_mixture",
    "basis_size": 64,
    "prior_portraits": 5,
    "learning_rate": 0.1,
    "steps": 72,
    "samples_per_step": 4,
}
# Of these presets the form for a base model whose known names are not at hand: without the name prior.
WITHOUT_NAMES: Mapping[str, str] = MappingProxyType(
    {"semantic-fidelity+prior": "semantic-fidelity", "celeb-basis+prior": "celeb-basis"}
)

PRESETS: Mapping[str, Method] = MappingProxyType(
    {
        "semantic-fidelity": _SEMANTIC_FIDELITY,
        # The same for a person who is a mixture of known names, with a prior from portraits that the base model draws of
        # them (docs/tuning.md).
        "semantic-fidelity+prior": _like(_SEMANTIC_FIDELITY, **_MIXTURE),
        # The paper as far as it is known, the rest as in its relatives: free vectors that begin at the class word.
        "semantic-fidelity-as-published": Method(learning_rate=_FREE_RATE, **_LONG),
        # Gal et al. 2022: one vector, no attention loss.
        "textual-inversion": _TEXTUAL_INVERSION,
        # The paper's own ablation: its attention loss on Textual Inversion.
        "textual-inversion+attention": _like(
            _TEXTUAL_INVERSION, attention_target="reference", learning_rate=_FREE_RATE, **_LONG
        ),
        # ProSpect: ten stages, one set of vectors for K and V.
        "prospect": _like(_TEXTUAL_INVERSION, stages=10, learning_rate=_FREE_RATE, **_LONG),
        # Break-A-Scene, the tokens of its first phase: diffusion loss on the mask only, attention drawn to the mask
        # (weight 1e-2, maps of 16 x 16).
        "break-a-scene": _like(
            _TEXTUAL_INVERSION,
            masked_loss=True,
            attention_target="mask",
            attention_weight=0.01,
            attention_max_resolution=16,
            learning_rate=_FREE_RATE,
        ),
        # Celeb-Basis without its face encoder: two words as coefficients of the principal components of names.
        "celeb-basis": _like(
            _TEXTUAL_INVERSION,
            vectors=2,
            parametrization="name_basis",
            initial_embedding="mean_name",
            learning_rate=1.0,
        ),
        # Its one stage as a mixture of known names with the prior, which tells the prior's part from the method's.
        "celeb-basis+prior": _like(
            _TEXTUAL_INVERSION, vectors=2, initial_embedding="mean_name", schedule="cosine", **_MIXTURE
        ),
        # Cross Initialization: two words that begin at the text encoder's output for the mean name and are held there.
        "cross-initialization": _like(
            _TEXTUAL_INVERSION,
            vectors=2,
            initial_embedding="encoder_output",
            initial_embedding_penalty=1e-5,
            learning_rate=_FREE_RATE,
            **_LONG,
        ),
        # Directional Textual Inversion (arXiv 2512.13672): only the direction is learned, of a vector as long as the
        # vocabulary's mean. All numbers as in its public code for SDXL; the rate is its 0.01 times its batch of four.
        "directional-textual-inversion": _like(
            _TEXTUAL_INVERSION,
            vector_length="fixed",
            optimizer="riemannian",
            direction_prior=1e-4,
            gradient_clip=0.0,
            weight_decay=0.0,
            learning_rate=0.04,
            steps=400,
            samples_per_step=4,
        ),
    }
)
