"""What holds for all tests."""

import signal

# In the background of a script it is ignored, by the tests and by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
