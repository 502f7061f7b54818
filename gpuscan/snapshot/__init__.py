"""Page flags of real machines, captured once: reading, writing, and the folios in them."""
