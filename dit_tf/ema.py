"""Choose the length of the average after the training:

    python -m dit_tf.ema --workdir=runs/digits --std=0.075 --output=model.keras
    python -m dit_tf.ema --workdir=runs/digits --decay=0.999 --output=model.keras

sample, evaluate and convert take the file as any other (--weights). An average that was tracked is that of the newest
checkpoint, to the bit; another width, or an earlier step, is a combination of snapshots (`dit_tf.training.post_hoc`).
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import os

import dit_tf
from dit_tf import build, flags
from dit_tf.inference.averages import Average, averaged
from dit_tf.runtime import model_file


def main(options):
    average = Average(options.workdir, options.std, options.decay, options.step)
    if not options.output.endswith(".keras") or os.path.isdir(options.output):
        raise ValueError(f"--output must be a file that ends in .keras, got {options.output!r}.")
    model, facts, summary = averaged(average)
    config, classes = build.load_config(options.workdir), build.load_classes(options.workdir)
    provenance = dict(dit_tf=dit_tf.__version__, workdir=options.workdir) | facts
    model_file.save(options.output, model, build.model_texts(config, classes, provenance))
    print(f"{options.output}: {average.width}, {summary}")


if __name__ == "__main__":
    flags.run(main, flags.define_ema, resumes=False)
