"""Captions of shots; the prompt grid uses the same phrases."""

import random
from dataclasses import dataclass

from .concepts import ATTRIBUTES
from .renderer import Shot

SCENE_PHRASES = {
    "beach": "on the beach",
    "forest": "in the forest",
    "city": "in the city",
    "snow": "in the snow",
    "desert": "in the desert",
    "night": "at night",
    "room": "in a room",
    "stage": "on a stage",
}
ATTRIBUTE_PHRASES = {
    "eyes closed": "with eyes closed",
    "smiling": "smiling",
    "mouth open": "with mouth open",
    "glasses": "wearing glasses",
    "hat": "wearing a hat",
    "white hair": "with white hair",
}
OBJECT_PHRASES = {
    "basketball": "holding a basketball",
    "umbrella": "holding an umbrella",
    "guitar": "holding a guitar",
    "book": "holding a book",
    "glass of wine": "holding a glass of wine",
}
CLOTHES_PHRASES = {
    "red sweater": "wearing a red sweater",
    "yellow jacket": "wearing a yellow jacket",
    "blue shirt": "wearing a blue shirt",
    "green hoodie": "wearing a green hoodie",
    "black suit": "wearing a black suit",
    "striped shirt": "wearing a striped shirt",
    "white coat": "wearing a white coat",
    "purple dress": "wearing a purple dress",
}
OPENINGS = {
    "face": ("a photo of the face of {}", "the face of {}", "a close-up photo of {}"),
    "half": ("a photo of {}", "a picture of {}", "{}"),
}


# Of a scene without people.
EMPTY_OPENINGS = ("a photo", "a picture")


@dataclass(frozen=True)
class Said:
    """How often a caption names what a picture shows, each 0 to 1.

    Attributes:
        close_up: that a close-up is one; of a half figure no words say it.
        clothes: those of a half figure; close_up_clothes: the little of them that a close-up shows.
    """

    scene: float = 0.93
    attribute: float = 0.93
    held: float = 0.93
    clothes: float = 0.75
    close_up_clothes: float = 0.3
    close_up: float = 1.0


NEARLY_ALL = Said()
# A text encoder and a U-Net that learn from these have to guess as much as those of real captions.
HALF = Said(scene=0.5, held=0.5, clothes=0.5, close_up_clothes=0.25, close_up=0.5)


def caption(shot: Shot, subject: str, rng: random.Random | None = None, said: Said = NEARLY_ALL) -> str:
    """A caption of a shot, in lower-case words.

    Args:
        subject: the name, or a word such as "person" or "a woman".
        rng: varies the opening, the order and the completeness; without it the caption names everything in a fixed
            order.
        said: how often what is named.
    """
    odds = {
        "scene": said.scene,
        "attribute": said.attribute,
        "held": said.held,
        "clothes": said.clothes if shot.framing == "half" else said.close_up_clothes,
    }

    def is_said(part: str) -> bool:
        return rng is None or rng.random() < odds[part]

    framing = shot.framing
    if rng is not None and framing == "face" and said.close_up < 1 and rng.random() >= said.close_up:
        framing = "half"
    openings = OPENINGS[framing]
    opening = openings[0] if rng is None or rng.random() < 0.7 else rng.choice(openings[1:])
    phrases = [
        ATTRIBUTE_PHRASES[name] for name in ATTRIBUTES if name in shot.attributes and is_said("attribute")
    ]
    if is_said("clothes"):
        phrases.append(CLOTHES_PHRASES[shot.clothes])
    if shot.held and shot.framing == "half" and is_said("held"):
        phrases.append(OBJECT_PHRASES[shot.held])
    if rng is not None:
        rng.shuffle(phrases)
    text = opening.format(subject)
    if shot.scene and is_said("scene"):
        scene = SCENE_PHRASES[shot.scene]
        if rng is None or rng.random() < 0.7:
            text += " " + scene + ("," if rng is not None and phrases and rng.random() < 0.4 else "")
        else:
            phrases.append(scene)
    return text + (" " + ", ".join(phrases) if phrases else "")


def scene_caption(shot: Shot, rng: random.Random) -> str:
    """A caption of a scene without people: it has no word for a person."""
    opening = rng.choice(EMPTY_OPENINGS)
    return f"{opening} {SCENE_PHRASES[shot.scene]}" if shot.scene else opening
