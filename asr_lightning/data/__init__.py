"""Reads audio folders: recordings, transcripts, CSV files and splits. Knows no torch and no model."""
