"""Waiting for a state, always under a deadline."""
import select
import time


class Deadline(AssertionError):
    """A state did not come in time."""


def until(get, timeout_s=10.0, what="state", interval_s=0.01):
    """Calls get() until it answers something true, and returns that."""
    end = time.monotonic() + timeout_s
    error = None
    while True:
        try:
            value = get()
            error = None
        except (OSError, ValueError) as e:
            value, error = None, e
        if value:
            return value
        if time.monotonic() >= end:
            raise Deadline(f"{what}: not within {timeout_s} s" + (f" (last: {error!r})" if error else ""))
        pause(interval_s)


def records(path, cnt, kind=None):
    """The access log's lines (of that kind), when there are as many: [{key: value}]."""
    def look():
        with open(path) as f:
            found = [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in f]
        found = [r for r in found if kind in (None, r["kind"])]
        return found if len(found) >= cnt else None
    return until(look, 10, f"{cnt} access records")


def pause(seconds):
    """Spacing of polls and of scripted traffic only; a test never assumes that something happened meanwhile."""
    select.select([], [], [], seconds)
