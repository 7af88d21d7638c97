"""From settings to a trained adapter: run.py is the story, loop.py its heart."""
