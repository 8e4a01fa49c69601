"""The words, three to five capital letters each, and the prompts that quote them."""

from __future__ import annotations

_WORDS = """
    able acid actor adult again age air alarm alley angel ant apple apron arch area arm army
    arrow art ash aunt baby back bag baker ball band bank barn basin bath beach bead beam bean
    bear bed bee bell belt bench berry bike bird blade blue board boat body bone book boot bowl
    box brain bread brick bride brook broom brush bulb bull bus bush cabin cable cake camel
    camp canal candy cap car card cargo cart cat cave chain chair chalk chart chess chin city
    clay cliff clock cloth cloud clown club coach coal coast coat coin comb coral corn couch
    cow crab crane cream creek crop crow crown cube cup curve dance dawn day deer desk diary
    dice disc dish diver dog door dove dress drill drum duck dune dust eagle ear earth east egg
    elbow elf exit eye face fair farm feast fence fern field film fish flag flame flask fleet
    flock flood floor flour flow flute fly fog fork fort fox frame fruit gate ghost giant gift
    girl glass globe glove goat gold goose grain grape grass green grove guard guest guide gum
    hair hall hand harp hat hawk heart hedge herb hill hive honey hook horn horse hotel hour
    house ice ink inn iron ivory ivy jam jar jazz jewel judge juice jump kayak key king kite
    knee knife knot lady lake lamb lamp land lane leaf lemon lens light lily lime lion lock log
    lunch magic maid map march mask meal medal melon milk mill mint moon moss moth mouse mouth
    mud music nail nest night north nose note nut oak oasis oat oil olive onion opal open opera
    owl oven paint palm panda paper park party path peach pear pearl pen piano pie pig pilot
    pine pipe plant plum poem pond pony pool poppy port queen quilt rain ramp rice ring river
    road robin rock roof room rope rose ruby rug sail salad salt sand sea seed shark sheep
    shell ship shirt shoe shop silk sink skirt sky sled snail snow soap sock sofa soup spice
    spoon star steam stone stop storm stove sugar sun swan table tail taxi tea tent tiger toast
    tool torch towel tower town toy trail train tree truck tulip urn van vase vest villa vine
    voice wagon wall wasp watch water wave whale wheat wheel wind wing wolf wood wool yacht
    yard yarn zebra zoo
"""
_SHORTEST, _LONGEST = 3, 5
_FITTING = sorted({word.upper() for word in _WORDS.split() if _SHORTEST <= len(word) <= _LONGEST})

HELD_OUT_WORDS = tuple(_FITTING[::3])
"""Never drawn for the base model nor asked for in its alignment."""

TRAINING_WORDS = tuple(word for word in _FITTING if word not in HELD_OUT_WORDS)
"""What the alignment asks for."""


def prompt_for(word: str) -> str:
    """The prompt of a word."""
    return f'a sign that says "{word}"'
