"""Sweeps: a data set or a long video is explained once, and looked at any time after.

A `Store` is a folder of activation maps with an index; `sweep` fills it, in one process or on
Dask's workers, and `explain_video` sweeps the windows of one recording. How a clip is explained is
the business of `saliency`; how a tube is drawn, of `views`.
"""
