"""Methods that add small modules to the base."""
