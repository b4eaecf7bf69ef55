"""Converters of Moonshine, and what they share: the loaded model and its graphs."""
