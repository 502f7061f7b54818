"""One file for each kind of result that a page can be made of."""
