"""How good a model, or a set of images, is:

    python -m dit_tf.evaluate --reference=VIRTUAL_imagenet256_labeled.npz --samples=samples.npz --output=metrics.json
    python -m dit_tf.evaluate --reference=digits --workdir=runs/digits --num_samples=5000 --features=pixels
    python -m dit_tf.evaluate --make_reference --dataset=folder:photos --image_size=256 --output=photos.npz
    python -m dit_tf.evaluate --workdir=runs/digits --likelihood

The same command again, after an interruption, goes on where it stopped.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

from dit_tf import flags
from dit_tf.evaluate_likelihood import evaluate_likelihood
from dit_tf.evaluate_samples import evaluate_samples
from dit_tf.make_reference import make_reference


def main(options):
    if options.likelihood and options.make_reference:
        raise ValueError("--likelihood and --make_reference are two evaluations: give one of them.")
    ending = ".npz" if options.make_reference else ".json"
    if not options.output.endswith(ending):
        kind = " of --make_reference" if options.make_reference else ""
        raise ValueError(f"--output{kind} must end in {ending}, got {options.output!r}.")
    if options.make_reference:
        make_reference(options)
    elif options.likelihood:
        evaluate_likelihood(options)
    else:
        evaluate_samples(options)


if __name__ == "__main__":
    flags.run(main, flags.define_evaluate)
