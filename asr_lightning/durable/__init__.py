"""Files and locks that survive a crash, and the points at which a test causes one. Loads no torch."""
