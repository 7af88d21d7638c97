"""Make the built-in data set ``builtin:captions`` from its grammar, the same bytes every time.

python scripts/make_captions.py

A scene (scripts/caption_scenes.py) is a set of attributes that go together; a telling is one way to say it: a frame for
the first sentence, perhaps another for the second, and what neither frame says beside the subject's noun or at the end
of the first sentence. The words and frames are in src/inlay/builtin/captions/grammar.toml.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from caption_scenes import ADJECTIVES, FOLDER, GRAMMAR, TOPICS, Chance, Scene, draw_scene

SEED = 19
ROWS = {"train": 9000, "valid": 200, "test": 200}
REFERENCES = (3, 4, 5)
TRIES = 400
HOURS = ("noon", "dawn", "midnight", "sunset")


def main() -> None:
    for name, text in as_files(tell_scenes()).items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


def as_files(splits: dict[str, list[tuple[Scene, list["Telling"]]]]) -> dict[str, str]:
    """The text of each file, by its name."""
    files = {}
    for split, told in splits.items():
        rows = []
        for scene, tellings in told:
            texts = [telling.text for telling in tellings]
            answer = {"completion": texts[0]} if split == "train" else {"references": texts}
            rows.append(json.dumps({"prompt": scene.prompt} | answer) + "\n")
        files[f"{split}.jsonl"] = "".join(rows)
    return files


def tell_scenes() -> dict[str, list[tuple[Scene, list["Telling"]]]]:
    """The scenes of each split, each with how it is told there; no scene and no text comes twice."""
    chance, seen = Chance(SEED), set()
    splits: dict[str, list[tuple[Scene, list[Telling]]]] = {split: [] for split in ROWS}
    for split, told in splits.items():
        while len(told) < ROWS[split]:
            scene = draw_scene(chance)
            wanted = 1 if split == "train" else chance.pick(REFERENCES)
            tellings = _different_tellings(scene, wanted, chance)
            new = {scene.key, *(telling.text for telling in tellings)}
            if len(tellings) == wanted and not new & seen:
                seen |= new
                told.append((scene, tellings))
    return splits


@dataclass(frozen=True)
class Frame:
    text: str

    @cached_property
    def required(self) -> frozenset[str]:
        return _topics_of(re.sub(r"\[.*?\]", "", self.text))

    @cached_property
    def topics(self) -> frozenset[str]:
        return _topics_of(self.text)

    @cached_property
    def complete(self) -> bool:
        """Whether no second sentence may follow: there are two already, or a pronoun could mean two subjects."""
        return bool(re.search(r"[.?!] ", self.text)) or "{are}" in self.text

    def suits(self, scene: Scene) -> bool:
        """Whether the scene has what the frame asks for, in words that it can take."""
        if not self.required <= scene.topics or ("{hand}" in self.text and "person" not in scene.slots):
            return False
        if "size" in self.required and scene.slots["size"] == "great":  # "it is very great" says another thing
            return False
        classes = GRAMMAR["actions"][scene.slots["action"]][0].split() if "action" in scene.slots else []
        if any(wanted not in classes for wanted in re.findall(r"\{action:(\w+)\}", self.text)):
            return False
        along = scene.place_group == "path"
        return along if "{place:path}" in self.text else not (along and "{place:still}" in self.text)


def _topics_of(text: str) -> frozenset[str]:
    other = {"day": "when", "worn": "garment"}
    return frozenset(TOPICS & {other.get(name, name) for name in re.findall(r"\{(\w+)", text)})


FRAMES = {
    (part, tense): [Frame(text) for text in GRAMMAR[part]["any"] + GRAMMAR[part][tense]]
    for part in ("main", "late")
    for tense in ("present", "past")
}


@dataclass(frozen=True)
class Telling:
    text: str
    frames: tuple[Frame, ...]


def _different_tellings(scene: Scene, count: int, chance: Chance) -> list[Telling]:
    """Up to `count` tellings, no two with the same frame for the first sentence."""
    found: dict[Frame, Telling] = {}
    for _ in range(TRIES):
        telling = tell(scene, chance)
        if telling is not None and telling.text not in {other.text for other in found.values()}:
            found.setdefault(telling.frames[0], telling)
        if len(found) == count:
            break
    return list(found.values())


def tell(scene: Scene, chance: Chance) -> Telling | None:
    """A way to say all of the scene; None if the frames drawn leave something over."""
    tense = chance.pick(("present", "past"))
    late = None
    if chance.random() < 0.55:
        late = chance.pick([None, *(frame for frame in FRAMES["late", tense] if frame.suits(scene))])
    if late and (late.topics == scene.topics or ("place" in late.topics and "action" not in scene.topics)):
        return None
    rest = scene.topics - (late.topics if late else frozenset())
    core = rest & {"action", "place", "when"}
    mains = [f for f in FRAMES["main", tense] if f.suits(scene) and f.required <= rest and core <= f.topics]
    main = chance.pick(mains) if mains else None
    if main is None or (late and main.complete):
        return None
    if late and "when" in late.topics and "{like}" in main.text:  # a habit did not happen once
        return None
    left = rest - main.topics
    tails = sorted(left & GRAMMAR["tails"].keys()) if "{tail}" in main.text else []
    tail = "friend" if "friend" in tails else chance.pick([*tails, None])
    beside = left - {tail}
    if "friend" in beside or len(beside & set(ADJECTIVES)) > 2 or len(beside & GRAMMAR["after_noun"].keys()) > 1:
        return None
    if "{are}" in main.text and beside & GRAMMAR["after_noun"].keys():  # "a fox with a drum and a hen"
        return None
    voice = _Voice(scene, tense, beside, tail, chance)
    text = voice.say(main, rest)
    if late is None:
        return Telling(_tidy(text), (main,))
    unclear = (tail or "friend" in main.topics) and scene.pronouns[0] == "it"  # "it" could mean another animal or thing
    second = voice.say(Frame(late.text.replace("{it}", "{the}", 1)) if unclear else late, scene.topics)
    joins = text.endswith(".") and not tail and re.match(r"\{its?\}", late.text) and ", and" not in text + second
    text = f"{text[:-1]}, and {second}" if joins and chance.random() < 0.5 else f"{text} {second}"
    return Telling(_tidy(text), (main, late))


def _tidy(text: str) -> str:
    text = re.sub(r",(?=[,.;!?])", "", text)
    return re.sub(r"(^|[.!?] )(\w)", lambda found: found[1] + found[2].upper(), text)


@dataclass(frozen=True)
class _Voice:
    """Says frames of one scene in one tense."""

    scene: Scene
    tense: str
    beside: Collection[str]
    """The topics that are said beside the subject's noun."""
    tail: str | None
    chance: Chance

    def say(self, frame: Frame, topics: Collection[str]) -> str:
        text = re.sub(r"\[(.*?)\]", lambda part: part[1] if _topics_of(part[1]) <= set(topics) else "", frame.text)
        return self._fill(text)

    def _fill(self, text: str) -> str:
        return re.sub(
            r"\{(\w+):?(\w*)\}(?=( \{(?:action|place|who))?)",
            lambda found: self._word(found[1], found[2], bool(found[3])),
            text,
        )

    def _word(self, name: str, kind: str, brief: bool) -> str:
        scene = self.scene
        it, them, its = scene.pronouns
        words: dict[str, Callable[[], str]] = {
            "is": lambda: self._be(plural=False),
            "be": lambda: self._be(plural=scene.plural),
            "are": lambda: self._be(plural=True),
            "one": lambda: self._verb(kind, plural=False),
            "it": lambda: it,
            "them": lambda: them,
            "its": lambda: its,
            "who": lambda: "that" if it == "it" or "animal" in scene.slots else "who",
            "hand": lambda: f"{its} {'hands' if scene.plural else 'hand'}",
            "the": lambda: f"the {scene.noun}",
            "np": lambda: self._subject(definite=False, brief=brief),
            "dnp": lambda: self._subject(definite=True, brief=brief),
            "subject": lambda: self._subject(definite=self.chance.random() < 0.4, brief=brief),
            "object": lambda: _with_article(scene.slots["object"]),
            "friend": lambda: _with_article(scene.slots["friend"]),
            "garment": self._garment,
            "worn": self._worn,
            "when": lambda: self._when(once=self.tense == "past" and kind != "often"),
            "day": self._day,
            "tail": self._tail,
        }
        if name in words:
            return words[name]()
        return self._verb(name, plural=scene.plural) if name in GRAMMAR["verbs"] else scene.slots[name]

    def _be(self, plural: bool) -> str:
        return {"present": ("is", "are"), "past": ("was", "were")}[self.tense][plural]

    def _verb(self, verb: str, plural: bool) -> str:
        present, past = GRAMMAR["verbs"][verb]
        return past if self.tense == "past" else verb if plural else present

    def _tail(self) -> str:
        if self.tail is None:
            return ""
        tails = [text for text in GRAMMAR["tails"][self.tail] if Frame(text).suits(self.scene)]
        if "object" in self.beside:  # not "with a drum with a hen"
            tails = [text for text in tails if not text.startswith(" with")]
        return self._fill(self.chance.pick(tails))

    def _subject(self, definite: bool, brief: bool) -> str:
        scene, beside = self.scene, [topic for topic in ("name", "object", "garment") if topic in self.beside]
        small = scene.slots.get("size") in ("little", "tiny")  # a merry little fox, but a big merry fox
        order = ADJECTIVES if small else ("size", "mood", "age", "colour")
        adjectives = [scene.slots[topic] for topic in order if topic in self.beside]
        noun = " ".join([*adjectives, scene.noun])
        if "number" in scene.slots:
            noun = f"{scene.slots['number']} {noun}"
        if definite and "name" in beside:
            beside.remove("name")
            noun = f"{scene.slots['name']} the {noun}"
        elif definite:
            noun = f"the {noun}"
        elif not scene.plural:
            noun = _with_article(noun)
        elif "number" not in scene.slots:
            noun = f"some {noun}"
        choices = [GRAMMAR["after_noun"][topic][: 1 if brief else None] for topic in beside]
        return " ".join([noun, *(self._fill(self.chance.pick(choice)) for choice in choices)])

    def _garment(self) -> str:
        slot = self.scene.garment
        assert slot is not None
        several, colour = GRAMMAR["garments"][slot], self.scene.slots[slot]
        return f"{colour} {several}" if self.scene.plural or slot == several else _with_article(f"{colour} {slot}")

    def _worn(self) -> str:
        slot = self.scene.garment
        assert slot is not None
        several = GRAMMAR["garments"][slot]
        plural = self.scene.plural or slot == several
        return f"{several if plural else slot} {self._be(plural)} {self.scene.slots[slot]}"

    def _when(self, once: bool) -> str:
        """The time as an adverb; `once` if it may be "one evening"."""
        time, day = self.scene.slots.get("time"), self._kind_of_day()
        one = once and self.chance.random() < 0.5
        if time in HOURS:
            return f"at {self._hour()}"
        if day == self.scene.slots.get("season") and not time and self.chance.random() < 0.5:
            return f"in {day}"
        if not day and not one:
            return "at night" if time == "night" else f"in the {time}"
        whole = f"{day} {time or 'day'}".strip()
        return f"one {whole}" if one else f"on {_with_article(whole)}"

    def _day(self) -> str:
        """The time as a noun."""
        time, day = self.scene.slots.get("time"), self._kind_of_day()
        if time in HOURS:
            return self._hour()
        if not day or (day == self.scene.slots.get("season") and not time):
            return day or f"{time}"
        return _with_article(f"{day} {time or 'day'}")

    def _hour(self) -> str:
        time, day = self.scene.slots["time"], self._kind_of_day()
        if not day:
            return time
        if day == self.scene.slots.get("season"):
            return f"{time} in {day}"
        return f"{time} in {day} weather" if time == "midnight" else f"{time} on {_with_article(f'{day} day')}"

    def _kind_of_day(self) -> str:
        return " ".join(self.scene.slots[slot] for slot in ("weather", "season") if slot in self.scene.slots)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


if __name__ == "__main__":
    main()
