"""The second half of launch/demo.sh, in one process, since each command alone takes seconds to begin:

    python launch/draw_and_score.py --workdir=runs/digits

Draws 50 of each digit with guidance and 50 without, a picture of each kind, and scores them. Every command is shown as
it is typed.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import os
import shlex

import absl.flags
import numpy as np

from dit_tf import evaluate, flags, sample, score_digits
from dit_tf.runtime.image_files import write_grid

KINDS = (("guided", 1.5, "digits.png"), ("unguided", 1.0, "digits-unguided.png"))  # 1.5 is the paper's scale
PICTURED = 50


def define_flags(values):
    define = flags.groups.Definer(values)
    define.string("workdir", None, "Work directory of a training on digits.")
    define.integer("num_samples", 500, "Digits of each kind, labels in turn.")
    define.float("train_seconds", None, "For the last line.")
    define.float("start_time", None, "Of the demo, in seconds since 1970; for the last line.")


def main(options):
    def place(name):
        return os.path.join(options.workdir, name)

    for kind, scale, picture in KINDS:
        drawing = [f"--workdir={options.workdir}", "--labels=0,1,2,3,4,5,6,7,8,9", f"--cfg_scale={scale}"]
        drawing += [f"--num_samples={options.num_samples}", f"--output={place(kind)}.npz"]
        command(sample.main, flags.define_sample, "sample", *drawing)
        draw_picture(f"{place(kind)}.npz", place(picture))

    print("\nWhat the evaluator says beside the 1,437 training digits, by pixels (so FD-pixels is no FID):")
    scoring = ["--features=pixels", "--reference=digits", f"--samples={place('guided')}.npz"]
    command(evaluate.main, flags.define_evaluate, "evaluate", *scoring, f"--output={place('metrics.json')}")

    print("\nGuided and unguided samples beside all digits, and held-out digits apart:")
    scoring = [f"--samples={place('guided')}.npz", f"--unguided_samples={place('unguided')}.npz"]
    times = {name: options[name].value for name in ("train_seconds", "start_time")}
    scoring += [f"--{name}={value}" for name, value in times.items() if value is not None]
    command(score_digits.main, flags.define_score_digits, "score_digits", *scoring)


def command(run, define, name, *arguments):
    """What `python -m dit_tf.NAME *arguments` does."""
    print(f"$ python -m dit_tf.{name} {shlex.join(arguments)}", flush=True)
    values = absl.flags.FlagValues()
    define(values)
    values([name, *arguments])
    run(values)


def draw_picture(samples, path):
    """The first images of an .npz as a grid, a class a column."""
    with np.load(samples) as arrays:
        images, labels = arrays["arr_0"][:PICTURED], arrays["arr_1"][:PICTURED]
    write_grid(path, images, [str(label) for label in labels], columns=10)
    print(f"The first {len(images)} of them: {path}")


if __name__ == "__main__":
    flags.run(main, define_flags)
