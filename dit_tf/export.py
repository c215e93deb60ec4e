"""Make a SavedModel of a trained model, which TensorFlow Serving serves and TensorFlow alone loads:

    python -m dit_tf.export --workdir=runs/digits --sampler=ddim --num_steps=50 --output=models/digits/1
    python -m dit_tf.export --weights=dit.keras --vae=vae.keras --cfg_scale=4 --weights_dtype=bfloat16

What it takes and gives: dit_tf/serving/signatures.py, and docs/serving.md. A version that is there is never changed.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

from dit_tf import flags
from dit_tf.inference.exporting import bytes_in, check_export, make_served, save
from dit_tf.sample import load_model, plan, sampler_options


def main(options):
    sizes = check_export(options.output, options.weights_dtype, options.cfg_scale, options.batch_sizes)
    asked, model = sampler_options(options), load_model(options)
    served = make_served(model, asked, options.weights_dtype, sizes)
    signatures = served.signatures(options.xla)
    print(plan(served.sampler), flush=True)
    save(model, served, signatures, options.output, sizes, asked.cfg_scale, options.weights_dtype)
    print(f"{bytes_in(options.output) / 2**20:.1f} MiB, signatures {', '.join(signatures)}: {options.output}")


if __name__ == "__main__":
    flags.run(main, flags.define_export, resumes=False)
