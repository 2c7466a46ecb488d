"""The end-to-end harness: real processes on loopback, one behaviour a test, no sleep in place of a wait."""
from .runner import Skip, main, slow
from .wait import until

__all__ = ["Skip", "main", "slow", "until"]
