"""Offers one model to other programs: OpenAI's transcription protocol over HTTP, and Home Assistant's Wyoming protocol.

Both read through one ``Reader``, one recording at a time. Loads torch only for a model that runs in it.
"""
