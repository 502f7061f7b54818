"""The built-in columns, a file for each group of them."""
