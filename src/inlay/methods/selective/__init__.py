"""Methods that train a part of the base's own parameters."""
