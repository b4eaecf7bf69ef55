"""Converts a saved model to the formats of other runtimes, and proves each in its runtime before it is handed out.

``formats.py`` of ``runtime/`` lists the formats. A converter is a module with ``convert``, which writes the files and
returns the settings that belong to them, and ``problems``, which says what is wrong with the files apart from the text.
Imports torch in its converters only.
"""
