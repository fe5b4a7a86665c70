"""The commands: each is a function whose signature and docstring are its options and its help."""
