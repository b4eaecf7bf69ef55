"""Makes batches for Lightning from audio folders. Knows audio and seconds; knows no token and no model."""
