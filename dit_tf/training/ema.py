"""The moving average of the weights that samples are drawn from."""


def ema_update(ema, params, decay):
    """ema <- decay ema + (1 - decay) params, lists of float32 tensors; it starts as an exact copy of the weights."""
    return [average + (1.0 - decay) * (p - average) for average, p in zip(ema, params)]
