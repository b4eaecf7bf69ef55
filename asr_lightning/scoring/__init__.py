"""Transcripts and error rates: text normalisers, edit counts, passes over a split, and stored transcripts."""
