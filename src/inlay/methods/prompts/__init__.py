"""Methods that add learned positions to the input and leave every weight as it is."""
