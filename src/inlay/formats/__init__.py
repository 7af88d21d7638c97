"""What adapters look like on disk."""
