"""Splits -> batches for Lightning. Knows audio and seconds; knows no token and no model."""
