"""What is built upon the mechanism: the adapter that a user holds, new heads, merging, checks, and what is reached."""
