"""What a request must keep to, asked in the graph: TensorFlow Serving answers INVALID_ARGUMENT with the sentence."""

import dataclasses

import tensorflow as tf

LARGEST_SCALE = 100.0  # of guidance: images are long saturated there


@dataclasses.dataclass(frozen=True)
class Rules:
    """num_classes: K. null_label: K where the model knows images without a class, else None. max_batch_size: rows that
    one request may have. last_time: what the largest t of `denoise` is."""

    num_classes: int
    null_label: int | None
    max_batch_size: int
    last_time: float

    def check_rows(self, **columns):
        """The columns of one request, as they are; InvalidArgumentError unless they have the rank that their signature
        says, and as many rows each, from 1 to max_batch_size."""
        columns = _of_their_rank(columns)
        (first, head), *others = columns.items()
        rows = tf.shape(head)[0]
        rules = [
            (tf.shape(column)[0] == rows, f"{name} must have as many rows as {first}, got", tf.shape(column)[:1])
            for name, column in others
        ]
        allowed = (rows >= 1) & (rows <= self.max_batch_size)
        rules.append((allowed, f"a request must have from 1 to {self.max_batch_size} rows, got", rows))
        return _held(rules, *columns.values())

    def check_label(self, label, null=False):
        """null: whether the null class is allowed too."""
        last = self.num_classes - 1
        largest = self.null_label if null and self.null_label is not None else last
        allowed = tf.reduce_all((label >= 0) & (label <= largest))
        (label,) = _held([(allowed, f"label must be from 0 to {largest}, got", label)], label)
        return label

    def check_seed(self, seed):
        (seed,) = _held([(tf.reduce_all(seed >= 0), "seed must not be negative, got", seed)], seed)
        return seed

    def check_scale(self, scale):
        if self.null_label is None:
            allowed, rule = scale == 1.0, "cfg_scale must be 1: this model was trained without label dropout; got"
        else:
            allowed = (scale >= 0.0) & (scale <= LARGEST_SCALE)  # false of NaN
            rule = f"cfg_scale must be from 0 to {LARGEST_SCALE:g}, got"
        (scale,) = _held([(tf.reduce_all(allowed), rule, scale)], scale)
        return scale

    def check_time(self, t):
        allowed = tf.reduce_all((t >= 0.0) & (t <= self.last_time))
        (t,) = _held([(allowed, f"t must be from 0 to {self.last_time:g}, got", t)], t)
        return t

    def check_finite(self, x):
        allowed = tf.reduce_all(tf.math.is_finite(x))
        (x,) = _held([(allowed, "x must be finite, the largest magnitude is", tf.reduce_max(tf.abs(x)))], x)
        return x


def _of_their_rank(columns):
    """The same, checked while the graph runs: a server does not hold what it is given against the signature, and so
    what is known of shapes is forgotten before it is asked for."""
    given = {name: tf.raw_ops.PlaceholderWithDefault(input=c, shape=None) for name, c in columns.items()}
    rules = []
    for name, column in columns.items():
        sizes = ", ".join(["N", *map(str, column.shape[1:])])
        shape = f"({sizes})" if column.shape.rank > 1 else "(N,)"
        allowed = tf.equal(tf.rank(given[name]), column.shape.rank)
        rules.append((allowed, f"{name} must have shape {shape}, got", tf.shape(given[name])))
    checked = dict(zip(columns, _held(rules, *given.values())))
    for name, column in columns.items():
        checked[name].set_shape(column.shape)
    return checked


def _held(rules, *tensors):
    """The tensors, which are there only if every (condition, sentence, value) of the rules is true."""
    asserted = [tf.debugging.Assert(condition, [sentence, value]) for condition, sentence, value in rules]
    with tf.control_dependencies(asserted):
        return [tf.identity(tensor) for tensor in tensors]
