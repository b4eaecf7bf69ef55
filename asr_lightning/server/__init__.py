"""The training server: its job engine, its HTTP layer, and its intake of untrusted recordings. Loads no torch."""
