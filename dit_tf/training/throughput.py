"""How fast a training runs, how near to what its devices can do, and how long it waits for its input."""

import dataclasses
import time

import keras


@dataclasses.dataclass(frozen=True)
class Span:
    """Executions on the clock: their steps, the seconds they took, and for how many of them there was no batch."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other):
        return Span(self.steps + other.steps, self.seconds + other.seconds, self.waited + other.waited)


class Throughput(keras.callbacks.Callback):
    """Measures the steps alone: without compilation, checkpoints, pictures and evaluations.

    chips: see `count_chips`. flops_per_image: of a train step. peak_flops: of all devices together, or None where that
    is not known.
    """

    def __init__(self, global_batch_size, chips, flops_per_image, peak_flops):
        super().__init__()
        self.global_batch_size, self.chips = global_batch_size, chips
        self.flops_per_image, self.peak_flops = flops_per_image, peak_flops
        self.compiled = False
        self.latest = self.since_line = Span()

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the device
        if self.compiled:
            seconds = time.perf_counter() - self.began
            self.latest = Span(int(logs["steps"]), seconds, float(logs["waited"]))
            self.since_line += self.latest
        self.compiled = True

    def line(self):
        """`rates` of the executions since it was last asked for."""
        span, self.since_line = self.since_line, Span()
        return self.rates(span)

    def rates(self, span):
        """What is logged; nothing before there was an execution that had not to be compiled."""
        if not span.steps:
            return {}
        images = span.steps * self.global_batch_size / span.seconds
        logged = {
            "steps_per_second": span.steps / span.seconds,
            "images_per_second": images,
            "images_per_second_per_chip": images / self.chips,
            "input_wait_share": span.waited / span.seconds,
        }
        if self.peak_flops is not None:
            logged["mfu"] = images * self.flops_per_image / self.peak_flops
        return logged
