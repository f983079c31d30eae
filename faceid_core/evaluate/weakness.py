"""Whether tokens came to anything: is the person surely more like the photo than what the class word draws anyway?

Tokens that were learned at a wrong rate, in too few steps, or of a person whom a method loses, draw some face or
other. Its similarity to the photo is what a stranger's is by chance, and no loss tells it from a good one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .intervals import over_pictures

# The share of the class word's pictures that must be less like the photo than the person's are on average.
STRANGERS = 0.95
_FEWEST_PICTURES = 2


def is_weak(
    values: Mapping[tuple[str, int], float | None], floor: Mapping[tuple[str, int], float]
) -> bool | None:
    """Whether a person is not surely above the floor.

    Pictures are paired by prompt and seed, which start from the same noise. A picture of the person that shows no face
    counts as the class word's. A person is surely above if both hold:

    - the mean difference to the class word is above 0 with its whole 95 % interval (bootstrap over prompts x seeds), so
      that it does not rest on which pictures were drawn;
    - the person's mean is above 95 % of the class word's pictures, so that a single wrong face does not pass: it is in
      all pictures, and in half of all cases somewhat nearer to the photo than strangers are on average.

    Args:
        values: identity similarity by (prompt id, seed); None where the picture shows no face.
        floor: the class word's against the same photo, where it shows a face.

    Returns:
        None where that cannot be told: fewer than two pairs.
    """
    pairs = [cell for cell in values if cell in floor]
    if len(pairs) < _FEWEST_PICTURES:
        return None
    strangers = np.asarray([floor[cell] for cell in pairs])
    own = np.asarray([floor[cell] if values[cell] is None else values[cell] for cell in pairs])
    gain = over_pictures(list(own - strangers), [prompt for prompt, _ in pairs])
    surely_more = gain.low is not None and gain.low > 0
    return not (surely_more and float(own.mean()) > float(np.quantile(strangers, STRANGERS)))
