"""The template service: turns names into letters."""
