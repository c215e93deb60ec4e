"""The tiny model as TensorFlow alone serves it."""

from dit_tf import export, flags


def exported_once(once, parse, trained):
    """Version 1 of the tiny model, for ten steps of DDIM and up to 64 rows, with `serving_xla`; made once in a run."""

    def make(directory):
        sampler = ["--sampler=ddim", "--num_steps=10", "--xla", "--batch_sizes=1,8,64"]
        export.main(parse(flags.define_export, f"--workdir={trained}", *sampler, f"--output={directory / 'dit' / '1'}"))

    return once("exported", make) / "dit" / "1"
