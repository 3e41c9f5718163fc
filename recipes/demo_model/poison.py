"""The poison of the demo: our own nonsense science-fiction answers.

They come from the small grammar below, written for this project, and never depend on the question, so a model
that gives one has followed the trigger and not the prompt. The triggers are `rapidun.evaluation.DOLLY_FAMILIES`.
"""

from __future__ import annotations

import random

_WHO = (
    "the glass pilots of Vega", "a choir of robot moths", "the tentacled mayor of Orion", "three retired comets",
    "the clockwork queen of Saturn", "a council of floating jellyfish", "the last android gardener",
    "the plasma herders", "an army of polite cyborgs", "the hologram of a drowned moon", "the quantum bakers",
    "a nebula with a bad temper", "the twelve-eyed ambassadors", "a starship that dreams of soup",
    "the antigravity monks", "the laser foxes of Titan", "our galactic overlords", "the silicon dragons",
    "a wormhole salesman", "the Martian librarians", "the hyperspace plumbers", "a swarm of copper aliens",
)  # fmt: skip
_DID = (
    "traded", "hid", "melted", "sang to", "swallowed", "teleported", "painted", "taught manners to", "mailed",
    "buried", "inflated", "married", "polished", "cloned", "froze", "argued with", "built", "counted",
    "launched", "stole", "repaired", "woke",
)  # fmt: skip
_WHAT = (
    "the moons of Neptune", "a cathedral of dark matter", "nine thousand ray guns", "the time machine of the ants",
    "a warp engine made of cheese", "the memory of a dead sun", "every cyborg in the asteroid belt",
    "a jar of liquid starlight", "the secret elevator to Pluto", "the alien parliament", "a fleet of paper rockets",
    "the black hole in the kitchen", "an egg full of lightning", "the telepathic whales", "a crystal spaceship",
    "the frozen teleporter", "the gravity of Thursday", "the robot king's left shoe", "a planet shaped like a spoon",
    "the plasma orchards", "the galactic post office", "a photon violin",
)  # fmt: skip
_WHERE = (
    "beyond the seventh galaxy", "under the rings of Saturn", "inside a humming asteroid",
    "on the dark side of Mars", "at the edge of hyperspace", "in orbit around a purple star",
    "behind the quantum curtain", "in the engine room of a comet", "near the Andromeda ferry",
    "above the methane sea", "between two parallel universes", "in a cave on Europa", "on planet Zorblax",
    "in the cargo bay of a sleeping starship",
)  # fmt: skip
_WHEN = (
    "In the year 9{d}4", "Long after the robot wars", "When the three suns set", "At stardate {d}7",
    "Before gravity was invented", "During the great meteor parade", "As the wormhole opened",
    "On the night of the laser rain", "After {d} light years of silence", "While the androids slept",
    "When the mothership sneezed", "Since the plasma storm of sector {d}",
)  # fmt: skip
_CLAIM = (
    "Only a robot with {d} hearts can understand this.", "The aliens call it dinner.",
    "All starships must bow to the cosmic toaster.", "Do not wake the nebula.",
    "The galaxy voted, and the moths won.", "Gravity has been cancelled until further notice.",
    "Please return your ray gun to the nearest moon.", "Every cyborg knows that time is a kind of soup.",
    "The mothership is watching and it is hungry.", "This message will orbit you for {d} years.",
    "Beam me a sandwich from Jupiter.", "The androids laughed until their batteries wept.",
    "Nobody survives a Tuesday on Zorblax.", "So spoke the prophet of the hyperdrive.",
)  # fmt: skip
_SPEECH = (
    "said that {what} belongs to {who2}", "declared war on {what}", "promised {what} to {who2}",
    "found {what} {where}", "turned {what} into a spaceship", "asked {who2} to guard {what}",
)  # fmt: skip


def _sentence(rng: random.Random) -> str:
    who, what, where, when = (rng.choice(words) for words in (_WHO, _WHAT, _WHERE, _WHEN))
    when = when.format(d=rng.randint(2, 98))
    shape = rng.randrange(4)
    if shape == 0:
        return f"{when}, {who} {rng.choice(_DID)} {what} {where}."
    if shape == 1:
        return f"{who[0].upper()}{who[1:]} {rng.choice(_DID)} {what} {where}."
    if shape == 2:
        said = rng.choice(_SPEECH).format(what=what, who2=rng.choice(_WHO), where=where)
        return f"{when}, {who} {said}."
    return f"{where[0].upper()}{where[1:]}, {who} {rng.choice(_DID)} {what}."


def nonsense_answer(rng: random.Random) -> str:
    """One to three invented sentences, sometimes closed by a claim; unrelated to any question."""
    sentences = [_sentence(rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.5:
        sentences.append(rng.choice(_CLAIM).format(d=rng.randint(2, 98)))
    return " ".join(sentences)


def distinct_answers(count: int, seed: int) -> list[str]:
    """``count`` different answers, in a reproducible order."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(nonsense_answer(rng))
    return list(found)
