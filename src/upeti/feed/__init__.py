"""A personal feed, what the models' understanding adds to it, and whether that is worth its cost."""
