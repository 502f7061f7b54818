"""Results as one page for a browser, and pictures of maps: what a result offers, and how that is drawn."""
