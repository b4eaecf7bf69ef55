"""An audio folder on disk: recordings, transcripts, CSVs and splits. Knows no torch and no model."""
