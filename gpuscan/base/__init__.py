"""What everything stands on and knows nothing of pages: errors, units, checks, words for what went wrong."""
