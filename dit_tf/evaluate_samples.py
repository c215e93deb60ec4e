"""ADM's five numbers of samples against a reference: what `python -m dit_tf.evaluate` does unless told otherwise."""

from dit_tf import flags
from dit_tf.inference.scoring import make_evaluator, open_set, versions
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.output_files import write_json
from dit_tf.sample import drawn_images, plan

IMAGES = "an .npz as ADM publishes or --make_reference writes, an .npy, a folder of PNG or JPEG files, or a data set"


def evaluate_samples(options):
    model = options.workdir or options.weights
    if bool(options.samples) == bool(model):
        raise ValueError("Either --samples or a model (--workdir or --weights) must be given, and not both.")
    if not options.reference:
        raise ValueError(f"--reference must be given: {IMAGES}.")
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    if model:
        samples = drawn_images(options, strategy, labels=None)
        print(plan(samples.sampler))
    else:
        samples = open_set("--samples", options.samples, options.samples_split, options)
    evaluator, facts = make_evaluator(options, strategy, samples.shape, options.batch_size, partial=options.output)
    evaluator.check(samples)
    provenance = dict(samples=samples.provenance(), **facts, **versions())

    scores = evaluator(samples)
    provenance["features_sha256"] = evaluator.features_sha256
    metrics = dict(scores.numbers(), provenance=provenance)
    write_json(options.output, metrics)
    evaluator.remove()
    print(scores.table())
    for doubt in scores.doubts():
        print(doubt)
    print(f"of {scores.count:,} images: {options.output}")
