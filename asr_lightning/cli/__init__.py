"""The commands, one file for each: its options, and a call that does the work. Heavy imports happen inside ``run``."""
