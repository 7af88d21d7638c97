"""The scenes of ``builtin:captions``: sets of attributes that go together, drawn from the grammar.

The words are in src/inlay/builtin/captions/grammar.toml; scripts/make_captions.py says how each scene is told.
"""

import random
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

FOLDER = Path(__file__).resolve().parent.parent / "src" / "inlay" / "builtin" / "captions"
GRAMMAR = tomllib.loads((FOLDER / "grammar.toml").read_text(encoding="utf-8"))
SUBJECTS, VALUES, PLACES = GRAMMAR["subjects"], GRAMMAR["values"], GRAMMAR["places"]
ATTRIBUTES = (3, 3, 4, 4, 4, 5)

TIMES = ("time", "season", "weather")
ADJECTIVES = ("mood", "size", "age", "colour")
TOPICS = {"action", "place", "when", "object", "friend", "name", "garment", *ADJECTIVES}
T = TypeVar("T")


class Chance(random.Random):
    """Choices made with `random()` alone, whose sequence for a seed Python promises to keep from version to version."""

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return sorted(items, key=lambda _: self.random())


@dataclass(frozen=True)
class Scene:
    slots: dict[str, str]
    """The attributes in the order of the prompt."""

    @property
    def prompt(self) -> str:
        return " | ".join(f"{name}: {value}" for name, value in self.slots.items())

    @property
    def key(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.slots.items())

    @cached_property
    def noun(self) -> str:
        return self.slots.get("animal") or self.slots["person"]

    @cached_property
    def plural(self) -> bool:
        return self.noun in (SUBJECTS["animals"] + " " + SUBJECTS["persons"]).split()

    @cached_property
    def garment(self) -> str | None:
        return next((slot for slot in self.slots if slot in GRAMMAR["garments"]), None)

    @cached_property
    def place_group(self) -> str | None:
        return next((group for group, places in PLACES.items() if self.slots.get("place") in places), None)

    @cached_property
    def topics(self) -> frozenset[str]:
        """What there is to be said of the subject beside its number."""
        found = {"when" if slot in TIMES else "garment" if slot == self.garment else slot for slot in self.slots}
        return frozenset(found & TOPICS)

    @cached_property
    def pronouns(self) -> tuple[str, str, str]:
        if self.plural:
            return ("they", "them", "their")
        for gender, pronouns in {"he": ("he", "him", "his"), "she": ("she", "her", "her")}.items():
            if self.noun in SUBJECTS[gender].split() or self.slots.get("name") in VALUES[gender].split():
                return pronouns
        return ("it", "it", "its")


def draw_scene(chance: Chance) -> Scene:
    """A scene of 3 to 5 attributes that go together."""
    while True:
        slots = _draw_slots(chance)
        scene = Scene({name: slots[name] for name in chance.shuffled(slots)})
        if _goes_together(scene):
            return scene


def _draw_slots(chance: Chance) -> dict[str, str]:
    kind = "animal" if chance.random() < 0.6 else "person"
    gender = chance.pick(("he", "she"))
    plural = chance.random() < 0.22
    subjects = {"animal": ("animal", "animals"), "person": (gender, "persons")}[kind][plural]
    slots = {kind: chance.pick(SUBJECTS[subjects].split())}
    left_out = {"name" if plural else "number"}
    left_out.add("colour" if kind == "person" else chance.pick(("garment", "garment", "garment", "colour")))
    shares = {slot: share for slot, share in GRAMMAR["shares"].items() if slot not in left_out}
    ordered = sorted(shares, key=lambda slot: chance.random() ** (1 / shares[slot]), reverse=True)
    wanted = sorted(ordered[: chance.pick(ATTRIBUTES) - 1])  # the action before the place, which depends on it
    for slot in wanted:
        if slot == "action":
            values = list(GRAMMAR["actions"])
        elif slot == "place":
            groups = GRAMMAR["actions"][slots["action"]][1].split() if "action" in slots else PLACES
            values = [place for group in groups for place in PLACES[group]]
        elif slot == "friend":
            values = SUBJECTS["animal"].split()
        else:
            lists = {"name": gender, "size": "size_of_person" if kind == "person" else "size"}
            values = VALUES[lists.get(slot, slot)].split()
        slots[chance.pick(list(GRAMMAR["garments"])) if slot == "garment" else slot] = chance.pick(values)
    return slots


def _goes_together(scene: Scene) -> bool:
    slots, values = scene.slots, list(scene.slots.values())
    if action := slots.get("action"):
        if action == "flying" and scene.noun not in SUBJECTS["winged"].split():
            return False
        if action == "riding" and "animal" in slots:
            return False
    elif scene.place_group in ("path", "water"):
        return False
    return not (
        len(set(values)) < len(values)
        or ("friend" in slots and slots.get("mood") == "lonely")
        or (slots.get("name") in VALUES["he"].split() and scene.noun in SUBJECTS["female"].split())
        or ("age" in slots and scene.noun in SUBJECTS["never_old"].split())
        or ("action" not in slots and "place" not in slots and not {"object", "mood"} <= slots.keys())
        or any(other in GRAMMAR["clashes"].get(value, "").split() for value in values for other in values)
    )
