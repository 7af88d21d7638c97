"""What the user names as DATA, opened, checked and described."""
