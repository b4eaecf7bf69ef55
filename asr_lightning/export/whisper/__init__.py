"""Converters of Whisper, and what they share: the model, its folder without torch, OpenAI's names, the graphs."""
