"""Files that survive a crash, and the places where a test makes one. Loads no torch."""
