"""The miniature's concepts: scenes, attributes, held objects and clothes."""

SCENES = ("beach", "forest", "city", "snow", "desert", "night", "room", "stage")
ATTRIBUTES = ("eyes closed", "smiling", "mouth open", "glasses", "hat", "white hair")
OBJECTS = ("basketball", "umbrella", "guitar", "book", "glass of wine")
CLOTHES = (
    "red sweater",
    "yellow jacket",
    "blue shirt",
    "green hoodie",
    "black suit",
    "striped shirt",
    "white coat",
    "purple dress",
)
FRAMINGS = ("face", "half")
HAIR_STYLES = ("sides", "crop", "parted", "afro", "spiky", "long", "bob", "bun")
BEARDS = ("none", "stubble", "full", "goatee", "moustache")
MARKS = ("none", "freckles", "mole", "blush")
