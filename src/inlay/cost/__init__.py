"""What a run takes, told before it by a step that has no values: memory, operations, time; and what is chosen to fit."""
