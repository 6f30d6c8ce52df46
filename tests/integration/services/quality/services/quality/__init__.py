"""The quality service: says whether a letter may go out."""
