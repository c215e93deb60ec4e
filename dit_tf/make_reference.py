"""A data set as a reference in ADM's format: what `python -m dit_tf.evaluate --make_reference` does."""

import functools

import tqdm

from dit_tf import flags
from dit_tf.data.source_images import open_images
from dit_tf.evaluation.evaluator import evenly_spaced
from dit_tf.evaluation.partial_reference import PartialReference
from dit_tf.inference.scoring import make_extractor
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.output_files import writing

STORED = 10_000  # images, for precision and recall: as many as ADM's references of ImageNet hold


def make_reference(options):
    """Statistics of every image, and some of the images themselves, evenly spaced, with their labels."""
    if not options.dataset:
        raise ValueError("--dataset must be given: it is what --make_reference makes a reference of.")
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    images = open_images(
        "--dataset", options.dataset, options.split or "train", options.data_dir, options.image_size, options.crop,
        limit=options.num_examples,
    )  # fmt: skip
    selected = evenly_spaced(images.count, num_stored(options.num_reference_images, images.count))
    extractor = make_extractor(options.features, options.inception, images.shape, options.batch_size, strategy)
    key = dict(images.provenance(), **extractor.facts)
    to_output = functools.partial(writing, options.output, "--output")
    with to_output():
        partial = PartialReference(options.output, key, selected, images.shape, extractor.widths)

    progress = dict(unit="image", desc="reference", dynamic_ncols=True)
    with tqdm.tqdm(total=images.count, initial=partial.count, **progress) as bar:
        try:
            for batch, labels in images.examples(options.batch_size, first=partial.count):
                features = extractor(batch)
                with to_output():
                    partial.append(batch, labels, features)
                bar.update(len(batch))
        except KeyboardInterrupt:
            with to_output():
                partial.save()
            raise
    with to_output():
        partial.finish()
    print(f"Statistics of {images.count:,} images, and {len(selected):,} of the images: {options.output}")


def num_stored(wanted, available):
    if wanted is None:
        return min(STORED, available)
    if not 1 <= wanted <= available:
        raise ValueError(f"--num_reference_images must be from 1 to {available:,}, got {wanted}.")
    return wanted
