"""What a run takes, told before it by a step without values: memory, operations, time; and what is chosen to fit."""
