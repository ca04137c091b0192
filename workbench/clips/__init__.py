"""Clips: a video file or a folder of frames becomes a `Clip`, and a `Clip` becomes a file again.

A clip holds decoded frames with their times and annotations. Which videos belong to a data set, and
what happens in them, is known in `datasets`; nothing here knows a network.
"""
