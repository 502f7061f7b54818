"""Where and when: what happened to pages, by page and time, in bounded memory; and pictures of it."""
