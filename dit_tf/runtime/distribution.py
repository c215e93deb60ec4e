"""Flags -> strategy: one device, several on this host, several hosts, or a TPU.

Of several hosts with GPUs or CPUs each runs the same command, and TF_CONFIG tells it who the others are. A TPU slice of
several hosts is driven by one program, which TPUClusterResolver connects to all of them: it needs no TF_CONFIG, and
`strategy.distribute_datasets_from_function` places on every host the input of its own replicas.
"""

import tensorflow as tf

from dit_tf.runtime.cluster import read_cluster
from dit_tf.runtime.tpu_connection import connect
from dit_tf.runtime.versions import check_versions, installed

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def make_strategy(name="auto", tpu=None, logical_cpus=0, tpu_zone=None, tpu_project=None, several_hosts=False):
    """name: one of STRATEGIES; tpu, tpu_zone, tpu_project: see `connect`; logical_cpus: split the CPU into so many
    devices, to try several replicas without hardware; several_hosts: whether the command can share its work with the
    other hosts of TF_CONFIG. Must run before TensorFlow touches a device."""
    if name not in STRATEGIES:
        raise ValueError(f"--strategy must be one of {', '.join(STRATEGIES)}, got {name!r}.")
    if tpu and name not in ("auto", "tpu"):
        raise ValueError(f"--tpu={tpu} goes with --strategy=tpu or auto, got --strategy={name}.")
    if name == "tpu" and not tpu:
        raise ValueError("--strategy=tpu needs --tpu=NAME, or --tpu=local on a TPU VM, got no --tpu.")
    if logical_cpus < 0:
        raise ValueError(f"--logical_cpus must not be negative, got {logical_cpus}.")
    if tpu and logical_cpus:
        raise ValueError(f"--logical_cpus={logical_cpus} splits this machine's CPU, so it cannot go with --tpu={tpu}.")
    if name == "multiworker" and not several_hosts:
        raise ValueError("--strategy=multiworker goes with train; this command runs on one host: try --strategy=auto.")
    if (tpu_zone or tpu_project) and not tpu:
        raise ValueError("--tpu_zone and --tpu_project go with --tpu=NAME, got no --tpu.")
    check_versions(installed(), tpu)
    if tpu:
        return tf.distribute.TPUStrategy(connect(tpu, tpu_zone, tpu_project))
    cluster = read_cluster() if several_hosts and name in ("auto", "multiworker") else None
    if name == "multiworker" or (cluster and len(cluster.addresses) > 1):
        return _multiworker(cluster, logical_cpus)
    if logical_cpus:
        _split_cpu(logical_cpus)
        devices = [f"CPU:{i}" for i in range(logical_cpus)]
    else:
        devices = [f"GPU:{i}" for i in range(len(tf.config.list_physical_devices("GPU")))] or ["CPU:0"]
    if name == "one" or (name == "auto" and len(devices) == 1):
        return tf.distribute.OneDeviceStrategy(f"/{devices[0]}")
    return tf.distribute.MirroredStrategy(devices)


def local_strategy(strategy):
    """For what one host computes by itself: its first device where several hosts train together, else all replicas."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return strategy
    return tf.distribute.OneDeviceStrategy(strategy.extended.worker_devices[0])


def check_batch(flag, batch_size, strategy):
    """ValueError unless every replica gets the same whole number of examples, at least one."""
    replicas = strategy.num_replicas_in_sync
    if batch_size < 1 or batch_size % replicas:
        rule = f"a positive multiple of the number of replicas ({replicas})"
        raise ValueError(f"{flag} must be {rule}, got {batch_size}.")


def device_names(strategy):
    """ "2 CPU", "8 TPU on 2 hosts": the devices that replicas are on."""
    replicas = strategy.num_replicas_in_sync
    devices = [tf.DeviceSpec.from_string(name) for name in strategy.extended.worker_devices]  # of several hosts its own
    hosts = len({(d.job, d.replica, d.task) for d in devices}) * replicas // len(devices)
    return f"{replicas} {devices[0].device_type}" + (f" on {hosts} hosts" if hosts > 1 else "")


def reads_here(strategy):
    """Whether this process reads the input: that of a TPU slice is read by its hosts, where no Python runs."""
    return not is_tpu(strategy) or "localhost" in strategy.extended.worker_devices[0]


def is_tpu(strategy):
    return isinstance(strategy, tf.distribute.TPUStrategy)


def compiled_on(function, strategy):
    """function(shared, *tensors) compiled, on the default device where strategy is None, else `on_replicas`."""
    program = tf.function(function, jit_compile=not is_tpu(strategy), autograph=False)
    return program if strategy is None else on_replicas(program, strategy)


def on_replicas(function, strategy):
    """A tf.function (shared, *tensors) as one of whole batches: the rows of tensors are shared out in order over the
    replicas of a strategy, scalars and what is in `shared` go to each, and every result has rows."""

    def share(x):
        if not x.shape.rank:
            return x
        parts = tf.split(x, strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])

    def distributed(shared, *tensors):
        results = strategy.run(function, args=(shared, *(share(x) for x in tensors)))
        return tf.nest.map_structure(lambda x: tf.concat(strategy.experimental_local_results(x), axis=0), results)

    return distributed


def _multiworker(cluster, logical_cpus):
    """Waits until all hosts are there. Between GPUs NCCL sums the gradients, between CPUs a ring over gRPC."""
    if cluster is None:
        raise ValueError("--strategy=multiworker needs TF_CONFIG, which says who the hosts are, and it is not set.")
    count, own = len(cluster.addresses), cluster.addresses[cluster.index]
    if logical_cpus:
        raise ValueError(f"--logical_cpus={logical_cpus} goes with one host, got the {count} of TF_CONFIG.")
    print(f"Host {cluster.index} of {count}, waiting for all: {', '.join(cluster.addresses)}", flush=True)
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.AUTO if tf.config.list_physical_devices("GPU") else kinds.RING
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except tf.errors.UnknownError as error:  # all that TensorFlow says where a port is taken
        raise ValueError(f"TF_CONFIG names {own} for this host, which cannot be opened: {error.message}.") from error


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
