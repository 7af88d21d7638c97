"""Whether a turn is learned or only read, where its row says so."""

from collections.abc import Mapping

from .problems import Problems, shown

# What OpenAI and Mistral, axolotl (two of them), ms-swift and verl call it.
WEIGHT_KEYS = ("weight", "train", "training", "loss", "loss_mask")


def read_weight(turn: Mapping[str, object], here: str, place: str, problems: Problems) -> tuple[bool, bool | None]:
    """Return whether what the turn says can be used, if not with a problem; and whether it is to be learned, None if it
    does not say. `here` is what a message calls the turn.
    """
    given = {key: turn[key] for key in WEIGHT_KEYS if turn.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            message = f"{here}.{key} is {shown(value)}; a turn is learned (1, true) or only read (0, false)"
            problems.fault(("weight", key), place, message)
            return False, None
    if len({bool(value) for value in given.values()}) > 1:
        said = " and ".join(f"{key} {shown(value)}" for key, value in given.items())
        problems.fault("weights", place, f"{here} has {said}; keep one of them")
        return False, None
    return True, next((bool(value) for value in given.values()), None)


def check_weight(learned: bool | None, role: str, first: bool, here: str, place: str, problems: Problems) -> bool:
    """Tell whether a turn can be what its row says of it; a problem if it is to be learned and answers nothing."""
    if not learned or (role == "assistant" and not first):
        return True
    why = "opens the conversation" if role == "assistant" else f"is the {role}'s"
    message = (
        f"{here} is to be learned, but {why}: only what answers something is; take the weight from it, or make it 0"
    )
    problems.fault(("no answer to learn", role), place, message)
    return False
