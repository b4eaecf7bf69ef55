"""What every runtime of Whisper needs: settings, log-mel features and tokens. Loads no torch."""
