"""From --tpu to a TPU that answers, or one sentence within half a minute."""

import threading

import tensorflow as tf

_TIMEOUT_SECONDS = 18.0  # with up to 10 s of imports, a TPU that does not answer is reported within 30 seconds


def connect(tpu, zone=None, project=None):
    """-> a resolver, connected and initialised. tpu: local, grpc://IP:8470 (of a slice all of its hosts, with commas
    between), or a name, which Google's API looks up in this zone and project; None: those of this machine.

    The search for a TPU retries for minutes, hence a thread and a deadline; the initialisation of one that was found
    takes as long as it takes. ValueError where it fails.
    """
    if (zone or project) and (tpu == "local" or tpu.startswith("grpc://")):
        raise ValueError(f"--tpu_zone and --tpu_project go with the name of a TPU, got --tpu={tpu}: leave them out.")
    outcome = {}

    def search():
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu, zone=zone, project=project)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.config.list_logical_devices()  # TensorFlow connects when it is first asked for a device
            outcome["resolver"] = resolver
        except Exception as error:  # the resolver raises errors of many kinds: HTTP, gRPC, environment, parsing
            outcome["error"] = error

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_SECONDS)
    if "resolver" not in outcome:
        raise _unreachable(tpu, outcome.get("error", f"no answer within {_TIMEOUT_SECONDS:.0f} s"))
    try:
        tf.tpu.experimental.initialize_tpu_system(outcome["resolver"])
    except Exception as error:
        raise _unreachable(tpu, error) from error
    return outcome["resolver"]


def _unreachable(tpu, reason):
    first_line = (str(reason).strip().splitlines() or [type(reason).__name__])[0].rstrip(".")
    return ValueError(
        f"--tpu={tpu} cannot be reached: {first_line}. Check the name, --tpu_zone and --tpu_project; on a TPU VM "
        "install '.[tpu]' and use --tpu=local; leave --tpu out to train on this machine."
    )
