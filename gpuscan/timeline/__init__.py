"""What happened when, on which thread: a timeline for Perfetto and chrome://tracing."""
