"""What is said of a step that did not fit in memory."""


def divided_text(step: int, micro_batch_size: int, recomputes: bool) -> str:
    which = f"step {step}" if step else "a step"
    again = ", with every block computed again" if recomputes else ""
    rows = "1 row" if micro_batch_size == 1 else f"{micro_batch_size} rows"
    return f"{which} did not fit; from then on {rows} at a time{again}, for the same gradients"
