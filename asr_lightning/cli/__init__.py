"""One thin file per command: its arguments and one call. Heavy imports happen inside ``run``."""
