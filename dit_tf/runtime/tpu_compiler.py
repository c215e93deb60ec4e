"""Compile a train step or a sampler for a TPU that is not there, with Google's compiler (libtpu, Linux x86-64).

A step is the two functions that training runs, with the mean over the replicas between them. Needs the extra
`preflight` (jax and libtpu), and a process of its own: `prepare_environment` must run before jax is imported.
"""

import dataclasses
import os
import re
import time

import numpy as np
import tensorflow as tf

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would else die on a lock file
}
_MEGACORE = ("v4", "v5p")  # two cores, one device a chip, as TPUStrategy sees them
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_HOST_OPERATIONS = r"\b(infeed|outfeed|send|recv|host-compute)\("


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of one core's program; bytes, and FLOPs per step."""

    topology: str
    cores: int
    compile_seconds: float
    flops: float
    bytes_accessed: float  # of HBM per step; an estimate, on v4 and later too high
    state_bytes: int  # weights, slots and averages
    argument_bytes: int
    aliased_bytes: int  # arguments whose memory the results take over
    temporary_bytes: int
    output_bytes: int
    all_reduces: int
    host_operations: int  # transfers to or from the host inside the step

    @property
    def total_bytes(self):
        return self.argument_bytes + self.temporary_bytes + self.output_bytes - self.aliased_bytes


class TooLarge(Exception):
    """The program does not fit into a core's memory: bytes that it needs and bytes that there are."""

    def __init__(self, needed_bytes, limit_bytes):
        super().__init__(needed_bytes, limit_bytes)
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes


def prepare_environment():
    """Let libtpu load without a TPU. Call it before jax is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def mesh_of(topology):
    """ "v3:2x2" -> a jax Mesh with the one axis `replica` over all devices of that slice. ValueError where the compiler
    knows no such slice."""
    import jax
    from jax.experimental import topologies

    name = topology.split(":")[0]
    options = {"chip_config_name": "megacore"} if name in _MEGACORE else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology={topology} is no slice that the TPU compiler knows ({error}).") from error
    return jax.sharding.Mesh(np.array(devices), ("replica",))


def compile_train_step(train_step, *, topology, global_batch_size, example_shape, example_dtype="uint8"):
    """A `TrainStep` on a model without memory (`costs.abstract`) -> (Report, the optimised HLO as text).

    global_batch_size: over all cores of the topology; example_shape: of what the data pipeline gives, such as
    (H, W, C) of images.
    """
    import jax
    from jax.experimental import jax2tf

    mesh = mesh_of(topology)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))

    def losses_of(params, frozen, examples, labels, row, step):
        return train_step.loss_and_gradients(params, frozen, (examples, labels, row), tf.constant(0, tf.int64), step)

    def one_replica(state, frozen, examples, labels, row, step):
        losses, gradients = call(losses_of)(state.params, frozen, examples, labels, row, step)
        losses, gradients = jax.lax.pmean((losses, gradients), "replica")
        return call(train_step.update)(state, losses, gradients, step + 1)

    def call(function):
        return jax2tf.call_tf(tf.function(function, jit_compile=True, autograph=False))

    step = jax.shard_map(
        one_replica,
        mesh=mesh,
        in_specs=(replicated.spec, replicated.spec, split.spec, split.spec, split.spec, replicated.spec),
        out_specs=replicated.spec,
        check_vma=False,
    )

    def specs_of(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=replicated) for v in variables]

    weights, frozen = specs_of(train_step.model.trainable_variables), specs_of(train_step.codec.encoder_variables)
    state = train_step.state_of(weights)
    batch = (
        jax.ShapeDtypeStruct((global_batch_size, *example_shape), example_dtype, sharding=split),
        jax.ShapeDtypeStruct((global_batch_size,), "int32", sharding=split),
        jax.ShapeDtypeStruct((global_batch_size,), "int32", sharding=split),
    )
    arguments = (state, frozen, *batch, jax.ShapeDtypeStruct((), "int32", sharding=replicated))
    state_bytes = sum(4 * int(np.prod(w.shape)) for w in tf.nest.flatten(state))
    return _compile(jax.jit(step, donate_argnums=0), arguments, topology, mesh.size, state_bytes)


def compile_function(function, specs, *, topology):
    """A tf.function that captures nothing, for one core -> (Report, the optimised HLO as text).

    specs: its arguments, tf.TensorSpecs in any structure. Those of 64 bits need jax's flag jax_enable_x64.
    """
    import jax
    from jax.experimental import jax2tf

    core = jax.sharding.SingleDeviceSharding(mesh_of(topology).devices.flat[0])
    arguments = tf.nest.map_structure(
        lambda spec: jax.ShapeDtypeStruct(spec.shape.as_list(), spec.dtype.as_numpy_dtype, sharding=core), specs
    )
    return _compile(jax.jit(jax2tf.call_tf(function)), arguments, topology, cores=1, state_bytes=0)


def _compile(jitted, arguments, topology, cores, state_bytes):
    began = time.perf_counter()
    # The CPU's lowering, because only it is in tensorflow-cpu; the devices make it a TPU's executable all the same.
    lowered = jitted.trace(*arguments).lower(lowering_platforms=("cpu",))
    try:
        compiled = lowered.compile()
    except RuntimeError as error:
        too_large = _too_large(error)
        if too_large is None:
            raise
        raise too_large from error
    memory, costs, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    report = Report(
        topology=topology,
        cores=cores,
        compile_seconds=time.perf_counter() - began,
        flops=costs["flops"],
        bytes_accessed=costs["bytes accessed"],
        state_bytes=state_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        all_reduces=len(re.findall(r"= .*\ball-reduce(?:-start)?\(", text)),
        host_operations=len(re.findall(_HOST_OPERATIONS, text)),
    )
    return report, text


def _too_large(error):
    """What the compiler says where memory does not suffice, else None."""
    found = re.search(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", str(error))
    if not found:
        return None
    needed, needed_unit, limit, limit_unit = found.groups()
    return TooLarge(round(float(needed) * _UNITS[needed_unit]), round(float(limit) * _UNITS[limit_unit]))
