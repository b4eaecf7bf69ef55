"""The training server over HTTP: the seed's three routes, the v1 API and a page, as three views of one job store.

Loads no torch: all work on audio and models is done by child processes of ``asr_lightning.server.engine``.
"""
