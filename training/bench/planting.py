"""Facts planted in real text, to be asked for later: names, numbers and quoted strings that nobody could guess."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

GIVEN = "Alma Bruno Clara Dario Edith Felix Greta Hugo Ilse Jonas Karin Lorenz Mira Nils Olga Pavel Rosa Simon"
FAMILY = "Abel Brandt Carver Dietz Ekholm Farrow Gruber Hollis Ivanek Jansen Keller Lindt Morrow Novak Ortiz"
PLACES = "Ashford Birchen Calder Dunmore Elswick Farley Garton Hexham Inver Jarrow Kelso Larkhill Marston"
THINGS = "locker crate ledger engine parcel ticket cabin wagon barrel archive boiler ferry kiln lantern safe"
SIGNS = "gate wall door bench bridge barn tower bell chest drum mirror mast oven plough sail"
ADJECTIVES = "amber bitter crooked dusty eager frozen gentle hollow idle jagged lonely muddy narrow patient quiet"
NOUNS = "anchor basket candle drawer engine feather garden hammer island jacket kettle ladder meadow needle"
VERBS = "bends carries drifts echoes follows gathers hides joins keeps lingers mends numbers opens passes rests"


@dataclass(frozen=True)
class Fact:
    """A sentence to plant, the words that ask for its end later, the right end and wrong ones of the same kind.

    The wrong ends are first those of the other facts planted in the same text, then others that stand nowhere.
    """

    kind: str
    sentence: str
    cue: str
    answer: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """How facts of one kind read: a sentence is the cue, the answer and the end."""

    name: str
    cue: str
    end: str
    keys: str
    answer: Callable[[Random], str]


def _name(random: Random) -> str:
    return f"{random.choice(GIVEN.split())} {random.choice(FAMILY.split())}"


def _number(random: Random) -> str:
    return str(random.randrange(1_000, 10_000))


def _string(random: Random) -> str:
    return " ".join(random.choice(words.split()) for words in (ADJECTIVES, NOUNS, VERBS))


KINDS = (
    Kind("name", "The mayor of {} is called", ".", PLACES, _name),
    Kind("number", "The number of the old {} is", ".", THINGS, _number),
    Kind("quoted string", 'The writing on the {} says: "', '".', SIGNS, _string),
)


def facts(kind: Kind, count: int, num_choices: int, random: Random) -> list[Fact]:
    """`count` facts of a kind with different keys and answers, each with `num_choices` - 1 wrong answers."""
    keys = random.sample(kind.keys.split(), count)
    answers: list[str] = []
    while len(answers) < count + num_choices:
        drawn = kind.answer(random)
        if drawn not in answers:
            answers.append(drawn)
    planted, unseen = answers[:count], answers[count:]
    made = []
    for key, answer in zip(keys, planted, strict=True):
        others = [other for other in planted if other != answer] + unseen
        cue = kind.cue.format(key)
        gap = "" if cue.endswith('"') else " "
        ends = tuple(gap + other for other in others[: num_choices - 1])
        made.append(Fact(kind.name, f"{cue}{gap}{answer}{kind.end}", cue, gap + answer, ends))
    return made


def planted(ids: Sequence[int], pieces: Sequence[Sequence[int]], breaks: Sequence[int], random: Random) -> list[int]:
    """A segment with pieces put in where sentences end, and as long as before: what no longer fits is cut off.

    Args:
        breaks: places before which a piece may stand, in any order; the ones used leave room for all pieces.

    Raises:
        ValueError: the pieces leave no room for any of the segment's own text.
    """
    room = len(ids) - sum(map(len, pieces))
    if room < 1:
        raise ValueError(f"{len(ids) - room} tokens to plant do not fit a segment of {len(ids)}")
    fitting = [place for place in breaks if place <= room] or [room]
    places = sorted(random.choice(fitting) for _ in pieces)
    made: list[int] = []
    before = 0
    for place, piece in zip(places, pieces, strict=True):
        made += [*ids[before:place], *piece]
        before = place
    return [*made, *ids[before:]][: len(ids)]
