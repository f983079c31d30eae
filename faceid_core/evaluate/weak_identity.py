"""Weak identity: whether a person's pictures are not surely more similar to the photo than the class word's.

Tokens that were learned at a wrong rate or in too few steps draw an arbitrary face. Its similarity to the photo is a
stranger's, and the training loss does not show it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .intervals import over_pictures

# The person's mean similarity must exceed that of this share of the class word's pictures.
STRANGER_QUANTILE = 0.95
_MIN_PAIRS = 2


def is_weak_identity(
    values: Mapping[tuple[str, int], float | None], floor: Mapping[tuple[str, int], float]
) -> bool | None:
    """Whether a person is not surely above the floor.

    Pictures are paired by prompt and seed, which start from the same noise. A picture of the person without a face
    counts as the class word's. A person is surely above the floor if both hold:

    - the whole 95 % interval of the mean difference to the class word is above 0 (bootstrap over prompts x seeds), so
      that the result does not depend on which pictures were drawn;
    - the person's mean is above 95 % of the class word's pictures. This rejects one wrong face in all pictures, which
      in half of all cases is nearer to the photo than strangers are on average.

    Args:
        values: identity similarity by (prompt id, seed); None where the picture shows no face.
        floor: the class word's similarity to the same photo, where its picture shows a face.

    Returns:
        None with fewer than two pairs.
    """
    pairs = [cell for cell in values if cell in floor]
    if len(pairs) < _MIN_PAIRS:
        return None
    strangers = np.asarray([floor[cell] for cell in pairs])
    own = np.asarray([floor[cell] if (value := values[cell]) is None else value for cell in pairs])
    gain = over_pictures(list(own - strangers), [prompt for prompt, _ in pairs])
    surely_more = gain.low is not None and gain.low > 0
    return not (surely_more and float(own.mean()) > float(np.quantile(strangers, STRANGER_QUANTILE)))
