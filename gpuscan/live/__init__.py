"""A live run: the engine on the pages of real processes, from the request to the last line."""
