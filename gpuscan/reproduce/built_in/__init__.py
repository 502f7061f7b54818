"""One published experiment each."""
