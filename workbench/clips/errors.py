"""The error of a video that cannot be read."""

__all__ = ["ClipError"]


class ClipError(ValueError):
    """A video that cannot be read, or not as asked; the message names the file and what to do."""
