"""The training server over HTTP: the v1 API, the three routes of its predecessor, and a page; all show the same jobs.

It loads no torch: all work on audio and models is done by child processes of ``asr_lightning.server.engine``.
"""
