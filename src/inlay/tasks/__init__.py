"""Tasks: what a run trains for; one file says everything about one."""
