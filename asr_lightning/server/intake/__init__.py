"""Turn an untrusted archive into an inspected folder of 16 kHz WAV files and transcripts. Loads no torch."""
