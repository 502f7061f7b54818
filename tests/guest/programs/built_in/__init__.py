"""One program each; :mod:`guest.programs.catalogue` finds them by their files."""
