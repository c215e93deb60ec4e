"""What every benchmark prints first: the processor that its figures hold for."""

import os

from dit_tf.runtime.processor import this_processor


def print_machine():
    print(f"{this_processor()}; load of other programs at the start: {os.getloadavg()[0]:.1f}", flush=True)
