"""Reads recordings with exported models on the person's own device. Loads no torch.

``contract.py`` says what a model in a runtime offers, ``formats.py`` lists the formats, and ``exported.py`` loads a
folder that ``export`` wrote. Each runtime has a module of its own with a function ``load``.
"""
