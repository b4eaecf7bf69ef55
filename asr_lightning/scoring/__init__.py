"""Texts and error rates: normalisers, edits, passes over a split, the canary, and texts that are known from before."""
