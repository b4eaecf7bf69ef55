"""An uploaded archive -> a checked folder of 16 kHz WAVs and transcripts. Trusts no byte of it; knows no torch."""
