"""What each command takes."""

from dit_tf.config import OBJECTIVES, PRECISIONS, RESUMABLE, SCHEDULES, RunConfig
from dit_tf.data.latent_spec import MOMENTS_DTYPES
from dit_tf.flags.groups import (
    IMAGES,
    Definer,
    define_crop,
    define_data,
    define_data_dir,
    define_devices,
    define_labels,
    define_model,
    define_reference,
    define_sampler,
    define_scaling_factor,
)
from dit_tf.flags.preflight import define_compilation
from dit_tf.flags.serving import define_app, define_export, define_query
from dit_tf.flags.study import define_study
from dit_tf.models.dit import BLOCKS
from dit_tf.pretrained.published import DOWNLOADS, PUBLISHED
from dit_tf.samplers.options import SamplerOptions
from dit_tf.transport.paths import PATHS, PREDICTIONS
from dit_tf.transport.transport import LOSS_WEIGHTS, TIME_DISTRIBUTIONS


def define_train(values):
    """How a model is trained. The defaults are the paper's recipe (section 4) for the smallest useful model."""
    define, c = Definer(values), RunConfig()
    define.string("workdir", None, "Where checkpoints, metrics and pictures go; default runs/DATASET-MODEL.")
    define_data(define, c)
    define.bool("unconditional", False, "Train without classes.")
    define.string("vae", None, "Autoencoder: train on its latents. With --dataset=latents:DIR it draws the pictures.")
    define_scaling_factor(define)
    define.bool("haar", False, "Train on the four Haar bands of the pixels, half the side: channels as latents have.")
    define.string("init_from", None, "Begin with the weights of a .keras file or work directory (fine-tuning).")
    define.string(
        "model", c.model,
        "DiT-{XL,L,B,S}/{2,4,8}, DiT-{Xs,Ti,Na,Mi}/{1,2,4} or DiT-WIDTHxDEPTHxHEADS[rRATIO]/PATCH, RATIO of its MLPs.",
    )  # fmt: skip
    define.string("block", c.block, f"Block design: {', '.join(BLOCKS)}.")
    define.bool("qk_norm", c.qk_norm, "Normalise queries and keys, which bounds attention's logits (not in DiT, SiT).")
    define.float("class_dropout_prob", c.class_dropout_prob, "Label dropout; 0: no null class, no guidance.")
    define.bool("learn_sigma", None, "Predict the covariance as well as the noise; default: with --objective=ddpm.")
    define.string("precision", c.precision, f"Of products: {', '.join(PRECISIONS)} (a TPU rounds both to bfloat16).")
    define.string("objective", c.objective, f"Training objective: {', '.join(OBJECTIVES)} (DiT, SiT).")
    define.string("path", c.path, f"Of flow, from noise to data: {', '.join(PATHS)}.")
    define.string("prediction", c.prediction, f"What a flow model gives: {', '.join(PREDICTIONS)}.")
    define.string("loss_weight", c.loss_weight, f"Of score and noise predictions: {', '.join(LOSS_WEIGHTS)}.")
    define.string("time_distribution", c.time_distribution, f"Of training times: {', '.join(TIME_DISTRIBUTIONS)}.")
    define.integer("global_batch_size", c.global_batch_size, "Examples per step over all replicas.")
    define.float("learning_rate", c.learning_rate, "AdamW's; with a schedule its highest.")
    define.integer("warmup_steps", c.warmup_steps, "Steps in which the learning rate rises from 0.")
    define.string("schedule", c.schedule, f"Of the learning rate after them, to 0: {', '.join(SCHEDULES)}.")
    define.integer("schedule_steps", 0, "The step at which it is 0; default: --train_steps.")
    define.float("weight_decay", c.weight_decay, "AdamW's, decoupled.")
    define.float("clip_norm", c.clip_norm, "Longest that the gradient of all weights may be; 0: any.")
    define.float("ema_decay", c.ema_decay, "Of the averaged weights that are sampled from.")
    define.list("ema_decays", None, "Of further averages, e.g. 0.999,0.99; dit_tf.ema gives them out.")
    define.list("ema_stds", None, "Relative widths of power-function averages, e.g. 0.05,0.1, for dit_tf.ema.")
    define.integer("ema_snapshot_every", 10_000, "Steps between snapshots of these, float16, for good; 0: none.")
    define.seed("Of weights, data order and noise.")
    define.list("resume_with", None, f"Options that go on with another value: some of {', '.join(RESUMABLE)}.")
    define.bool("allow_new_data", False, "Go on although the data set holds other images than it did.")
    define.integer("train_steps", 400_000, "The step to stop at; a resumed run counts from where it was.")
    define.integer("checkpoint_every", 1000, "Steps between checkpoints.")
    define.integer("keep_checkpoints", 3, "How many of the newest checkpoints stay.")
    define.float("keep_checkpoint_hours", None, "One checkpoint of every so many hours stays too, for good; 0: none.")
    define.integer("keep_model_every", 0, "Steps between files of averaged weights, WORKDIR/models, for good; 0: none.")
    define.integer("max_bad_steps", 10, "Stop after so many steps in a row whose loss or gradient is not finite.")
    define.integer("log_every", 100, "Steps between lines of metrics.jsonl.")
    define.list(
        "profile_steps", None, "FIRST,LAST: trace the executions that hold these steps into WORKDIR/profile, for XProf."
    )
    define.integer("sample_every", 5000, "Steps between pictures of samples; 0: none.")
    define.integer("eval_every", 0, "Steps between evaluations of the averaged weights; 0: none.")
    define.integer("eval_samples", 10_000, "Images that an evaluation draws, with random labels.")
    define.integer("eval_num_steps", None, "Steps of the sampler, as of sample; default: the sampler's.")
    define.float("eval_cfg_scale", 1.0, "Guidance while evaluating.")
    define_reference(define, " Default: the training split.")
    define.integer("steps_per_execution", 50, "Steps per call of the compiled function.")
    define.bool("xla", True, "Compile the step with XLA (always on a TPU).")
    define.bool("remat", False, "Compute each block's activations twice: a fraction of the memory, 1.33 of the FLOPs.")
    define.bool("scan_blocks", False, "The blocks as one loop, of which the compiler sees one; includes --remat.")
    define.integer("accumulation_steps", 1, "Parts that a replica's batch is computed in; gradients are their mean.")
    define_devices(define)


def define_sample(values):
    """How images are drawn from a trained model. An interrupted run goes on."""
    define, o = Definer(values), SamplerOptions()
    define_model(define)
    define.list("labels", None, "Classes by number, name or id, e.g. 207,daisy,n01440764; image i gets label i, round.")
    define_labels(define)
    define.integer("num_samples", None, "How many; default: one per label. Without --labels they are random.")
    define_sampler(define)
    define.float("atol", o.atol, "Absolute tolerance of --solver=dopri5, per image.")
    define.float("rtol", o.rtol, "Relative tolerance of --solver=dopri5.")
    define.seed("Image i depends on (seed, i) and its label alone.")
    define.integer("batch_size", 100, "Images per call of the compiled sampler; changes no image.")
    define.string("output", "samples.png", "A .png grid, an .npz as ADM's evaluator reads it, or DIR/ for single PNGs.")
    define_devices(define)


def define_evaluate(values):
    """How good a model, or a set of images, is: FID, sFID, Inception Score, precision and recall as ADM's evaluator has
    them, of --samples or of images drawn from the model, against --reference. --make_reference: makes such a file of
    --dataset. --likelihood: bits per dimension of --dataset given its labels, as a bound over all timesteps (DDPM) or
    through the probability flow (flow matching). An interrupted evaluation goes on."""
    define, c = Definer(values), RunConfig()
    define.string("samples", None, f"What is scored: {IMAGES}. Default: images drawn from the model.")
    define_reference(define, "")
    define.bool("make_reference", False, "Write --output=FILE.npz of --dataset, as ADM's evaluator reads it.")
    define.bool("likelihood", False, "Bits per dimension instead.")
    define_model(define)
    define.integer("num_samples", 50_000, "Images drawn from the model.")
    define_labels(define)
    define_sampler(define)
    define_data_dir(define)
    define.string("dataset", None, "Of --make_reference and --likelihood; default: the training's.")
    define.string("split", None, "Of --dataset; default: train, of --likelihood test.")
    define.string("samples_split", "train", "Where --samples is a data set.")
    define.integer("image_size", None, "Side in pixels of data sets; default: their own, or that of the samples.")
    define_crop(define, c)
    define.integer("num_examples", None, "Only the first so many images of --dataset; default: the whole split.")
    define.float("atol", None, "Absolute tolerance of dopri5; default: 1e-6 of the sampler, 1e-5 of the likelihood.")
    define.float("rtol", None, "Relative tolerance of dopri5; default: 1e-3 of the sampler, 1e-5 of the likelihood.")
    define.seed("Image i depends on (seed, i) and its label; so does the likelihood's noise.")
    define.integer("batch_size", 100, "Images per call of the compiled programs, over all replicas.")
    define.string("output", "metrics.json", "Where the numbers go.")
    define_devices(define)


def define_encode(values):
    """How images become latents on disk, which train reads as --dataset=latents:DIR. An interrupted run goes on."""
    define, c = Definer(values), RunConfig()
    define.string("vae", None, "Autoencoder: what convert wrote, a published file, or a published name.")
    define_scaling_factor(define)
    define.string("from_latents", None, "Instead of --dataset: latents that fast-DiT or LightningDiT extracted, a DIR.")
    define.string("output", None, "Directory that the latents go to.")
    define_data(define, c)
    define.string("precision", c.precision, f"Of products: {', '.join(PRECISIONS)} (a TPU rounds both to bfloat16).")
    dtypes = f"What is stored: {', '.join(MOMENTS_DTYPES)}; default: the first, of --from_latents the second."
    define.string("moments_dtype", None, dtypes)
    define.bool("allow_new_data", False, "Go on although the files that are read have changed: what is finished stays.")
    define.integer("examples_per_shard", 1024, "Images per file; what a killed run loses at most.")
    define.integer("batch_size", 32, "Images per call of the compiled encoder, over all replicas.")
    define_devices(define)


def define_convert(values):
    """Published weights of DiT, SiT and Stable Diffusion's autoencoder as .keras files, and models as DiT's .pt. What
    the weights' shapes do not tell is asked for by name."""
    define = Definer(values)
    define.string("source", None, f"A file, a directory (diffusers; work directory), or {', '.join(PUBLISHED)}.")
    define.string("output", None, "A .keras file; of a model of dit_tf's own, a .pt file. It is replaced.")
    define.integer("num_heads", None, "Attention heads, where the width is not that of a published size.")
    define.integer("num_classes", None, "Classes, without the null class; where the label table leaves it open.")
    define.integer("input_size", None, "Side of the input, in latents or pixels, where the file has no position table.")
    define.string(
        "objective", None, f"{' or '.join(OBJECTIVES)}, what it was trained for; default: a published name's, or ddpm."
    )
    define.string("codec", None, "What a network of 4 channels works on: vae (latents, as all published) or pixels.")
    define.string("path", None, f"Of --objective=flow: {', '.join(PATHS)}; default: the first.")
    define.string("prediction", None, f"Of --objective=flow: {', '.join(PREDICTIONS)}; default: the first.")
    define.string(
        "source_clock", None, "Of --objective=flow: noise_at_0 (SiT; the default), or noise_at_1 (REPA, REPA-E), where "
        "time 1 is noise and a velocity is noise less data. Files do not say which."
    )
    define.bool("ema", True, "Of a training checkpoint, the averaged weights rather than the raw ones.")
    define_scaling_factor(define)
    define.string("sha256", None, "What the source's SHA-256 must be.")
    define.string("download_dir", DOWNLOADS, "Where published files are downloaded to.")


def define_ema(values):
    """A model whose weights are averaged over another length than those of model.keras, after the training: of any
    relative width, from the snapshots that --ema_stds of train left; or an average that was tracked, as it is."""
    define = Definer(values)
    define.string("workdir", None, "Work directory of a training.")
    define.float("std", None, "Relative width of the average: its standard deviation over all steps so far, e.g. 0.1.")
    define.float("decay", None, "Instead: of an exponential average that was tracked (--ema_decay, --ema_decays).")
    define.integer("step", None, "Of --std: the snapshot's step that the average ends at; default: the newest.")
    define.string("output", "model.keras", "A .keras file. It is replaced.")


def define_preflight(values):
    """What a training costs, and whether it fits a TPU slice before there is one: parameters, multiply-adds and FLOPs;
    with --topology, the programs as Google's TPU compiler makes them. It takes the flags of train, and so its flag
    files; those that change neither the network nor its step change nothing. --model=all: every published size."""
    define_train(values)
    values.set_default("model", "DiT-XL/2")
    values.set_default("dataset", "latents:imagenet2012")  # ImageNet's latents are assumed where there are none
    define_compilation(Definer(values))


def define_score_digits(values):
    """How close samples of digits are to real ones."""
    define = Definer(values)
    define.string("samples", None, "npz of guided samples: arr_0 uint8 NHWC, arr_1 labels.")
    define.string("unguided_samples", None, "npz of samples drawn without guidance.")
    define.string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.")
    define.float("train_seconds", None, "How long training took; passed on.")
    define.float("start_time", None, "Unix seconds that total_seconds counts from.")


COMMANDS = {
    "train": define_train,
    "sample": define_sample,
    "evaluate": define_evaluate,
    "encode": define_encode,
    "convert": define_convert,
    "ema": define_ema,
    "export": define_export,
    "query": define_query,
    "app": define_app,
    "preflight": define_preflight,
    "score_digits": define_score_digits,
    "study": define_study,
}
