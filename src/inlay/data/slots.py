"""The slots of a data-to-text prompt, such as `animal: fox | place: by the fire`, and how many of them a text fills."""

import re

_SLOT = re.compile(r"\s*([^\W\d_][\w -]*?)\s*:\s*(\S[^\n]*?)\s*")


def parse_slots(prompt: str) -> tuple[tuple[str, str], ...] | None:
    """Return each slot's name and value, in order; None for a prompt that is not two or more of `name: value` between
    bars.

    One `name: value` alone is not taken for a slot: too many other prompts begin with a word and a colon.
    """
    found = [_SLOT.fullmatch(part) for part in prompt.strip().split("|")]
    slots = tuple((match[1], match[2]) for match in found if match)
    return slots if len(slots) == len(found) > 1 else None


def slot_accuracy(prompt: str, text: str) -> float | None:
    """Return the share of the prompt's slots that the text fills: their value occurs in it as whole words, in any case.

    None for a prompt without slots. A text that copies the prompt fills them all, and one that gives a value to the
    wrong slot fills it too, so this says nothing of the text as a sentence; BLEU or chrF does.
    """
    slots = parse_slots(prompt)
    if slots is None:
        return None
    return sum(_occurs(value, text) for _, value in slots) / len(slots)


def _occurs(value: str, text: str) -> bool:
    words = r"\s+".join(map(re.escape, value.casefold().split()))
    return re.search(rf"(?<!\w){words}(?!\w)", text.casefold()) is not None
