"""The training server: its job engine, its HTTP, and its intake of strangers' recordings. Loads no torch."""
