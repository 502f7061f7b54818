"""The loop that owns a tick, what it asks of the stages around it, and what it keeps account of."""
