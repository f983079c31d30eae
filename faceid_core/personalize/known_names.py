"""Names that a base model knows, of which initial embeddings and bases are made. No model library is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faceid_core.errors import ConfigurationError
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.weights.describe import MINIATURE

_FEWEST_NAMES = 9  # more than the folds of the name prior's cross-validation
_MOST_NAMES = 4096  # every prompt is encoded with each of them
# Public figures whom the Stable Diffusion models draw well, as first and last word; Celeb-Basis and Cross
# Initialization take theirs from lists of the same kind. Names whose words are not single tokens are left out at use.
PUBLIC_FIGURES = (
    "adam sandler", "al pacino", "albert einstein", "amy adams", "angela merkel", "angelina jolie", "anna kendrick",
    "anne hathaway", "anthony hopkins", "audrey hepburn", "barack obama", "ben affleck", "ben stiller", "bill clinton",
    "bill gates", "bill murray", "brad pitt", "bruce lee", "bruce willis", "cameron diaz", "cate blanchett",
    "charlie chaplin", "chris evans", "chris pratt", "christian bale", "clint eastwood", "daniel craig", "david beckham",
    "david bowie", "denzel washington", "donald trump", "elizabeth taylor", "elvis presley", "emily blunt",
    "emma stone", "emma thompson", "emma watson", "frank sinatra", "gal gadot", "gary oldman", "george bush",
    "george clooney", "grace kelly", "gwyneth paltrow", "halle berry", "harrison ford", "hillary clinton", "hugh grant",
    "hugh jackman", "ian mckellen", "jackie chan", "james dean", "jane fonda", "jeff bridges", "jennifer aniston",
    "jennifer lawrence", "jennifer lopez", "jessica alba", "jim carrey", "jodie foster", "john lennon", "john travolta",
    "johnny depp", "jude law", "judy garland", "julia roberts", "julianne moore", "kate winslet", "katy perry",
    "keanu reeves", "kevin costner", "kevin hart", "kevin spacey", "lady gaga", "leonardo dicaprio", "lionel messi",
    "liam neeson", "lucy liu", "margot robbie", "mark wahlberg", "marilyn monroe", "martin freeman", "matt damon",
    "mel gibson", "michael caine", "michael jackson", "michael jordan", "michelle obama", "mila kunis", "morgan freeman",
    "natalie portman", "nelson mandela", "nicolas cage", "nicole kidman", "oprah winfrey", "orlando bloom",
    "owen wilson", "patrick stewart", "paul newman", "penelope cruz", "queen elizabeth", "reese witherspoon",
    "richard gere", "ricky gervais", "robert downey", "robert redford", "robin williams", "roger federer",
    "russell crowe", "ryan gosling", "ryan reynolds", "samuel jackson", "sandra bullock", "scarlett johansson",
    "sean connery", "serena williams", "sophia loren", "steve carell", "steve jobs", "steve martin", "steven spielberg",
    "susan sarandon", "taylor swift", "tiger woods", "tom cruise", "tom hanks", "tom hardy", "uma thurman", "usain bolt",
    "viola davis", "whoopi goldberg", "will ferrell", "will smith", "winston churchill", "woody allen",
)  # fmt: skip


def known_names(names: str, base_name: str) -> Sequence[str]:
    """Two-word names that a base model knows.

    Args:
        names: "miniature", "public_figures", or "auto" for the list that belongs to the base model.
        base_name: of the base model's description.
    """
    if names == "miniature" or (names == "auto" and base_name == "miniature"):
        return [name_of(seed) for seed in NAMED_SEEDS]
    return PUBLIC_FIGURES


def prior_names(names_file: str, base_name: str) -> Sequence[str]:
    """The names from which a name prior is learned.

    There is no list for other base models than the miniature: whose portraits a model is to draw is the user's choice.

    Args:
        names_file: path of a text file with a name of two words on each line; empty for the miniature's own.
        base_name: of the base model's description.

    Raises:
        ConfigurationError: there is no file and the base model is another, the file cannot be read, or a line is no name.
    """
    if not names_file:
        if base_name == MINIATURE:
            return known_names(MINIATURE, base_name)
        raise ConfigurationError(
            "parametrization name_mixture learns from names that the base model knows: name a file of them with "
            "personalize.names_file, or choose another parametrization"
        )
    try:
        lines = Path(names_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"personalize.names_file {names_file} cannot be read: {error}") from None
    names = [" ".join(line.lower().split()) for line in lines if line.strip()]
    odd = [number for number, line in enumerate(lines, 1) if line.strip() and len(line.split()) != 2]
    if odd:
        raise ConfigurationError(
            f"personalize.names_file {names_file}: line {odd[0]} is not a name of two words; {len(odd)} such lines"
        )
    if len(names) != len(set(names)):
        raise ConfigurationError(f"personalize.names_file {names_file} has a name twice")
    if len(names) > _MOST_NAMES:
        raise ConfigurationError(
            f"personalize.names_file {names_file} has {len(names)} names; give at most {_MOST_NAMES}"
        )
    return names


def require_names(found: int, names: str, encoder: str) -> None:
    """Refuse initial embeddings and bases made of too few names.

    Args:
        found: how many of the names are two tokens long, as is needed.
        names: as in `known_names`, or the path of a file with names.
        encoder: the text encoder whose tokenizer counted.

    Raises:
        ConfigurationError: there are too few.
    """
    if found < _FEWEST_NAMES:
        raise ConfigurationError(
            f"only {found} names of the list {names!r} are two tokens long for {encoder}, fewer than {_FEWEST_NAMES}; "
            "set known_names or personalize.names_file to names that the base model knows, or choose initial_embedding "
            "class_word and parametrization free or block"
        )
