"""The columns of a comparison's table: what one is, those there are, and their cells."""
