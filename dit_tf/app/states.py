"""A sampler's states one by one, while it runs."""

import queue
import threading


class _Abandoned(Exception):
    """Nobody looks any more."""


def states_of(draw, network):
    """Yields x (1, H, W, C), what the first row is at each evaluation of the network, in order.

    draw(call): a sampler's run, not compiled, that calls `call(params, x, t, y)` for `network`. It has a thread of its
    own, since a loop that calls cannot yield; it ends with the generator, and what it raises is raised here.
    """
    seen, abandoned = queue.SimpleQueue(), threading.Event()

    def call(params, x, t, y):
        if abandoned.is_set():
            raise _Abandoned
        seen.put(x[:1])  # guidance doubles the rows: first those with their label
        return network(params, x, t, y)

    def run():
        try:
            draw(call)
            seen.put(None)
        except Exception as error:  # whatever it is, it belongs to whom waits for a state
            seen.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (state := seen.get()) is not None:
            if isinstance(state, Exception):
                raise state
            yield state
    finally:
        abandoned.set()
