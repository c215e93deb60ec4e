"""launch/serve.sh calls docker as its dry run says; what it and compose.yaml tell the server agrees with the export.

No Docker engine is needed: a stub keeps the words it is called with. The server's configurations are read as it reads
them, as messages of its protocol; of two that its Python package leaves out, the fields are written down here.
"""

import http.server
import pathlib
import re
import shlex
import shutil
import subprocess
import threading

import pytest
import yaml
from absl import flags
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from dit_tf.flags import define_export
from tests import launch_stubs
from tests.launch_stubs import BASH, JOURNAL, LAUNCH

SERVING = LAUNCH / "serving"


class Desk(launch_stubs.Desk):
    """The user's machine: serve.sh with a stub for docker, and models/dit of two versions."""

    def __init__(self, root):
        super().__init__(root)
        self.add("docker", JOURNAL)
        (self.bin / "realpath").symlink_to(shutil.which("realpath"))
        for version in ("1", "2"):
            (root / "models" / "dit" / version).mkdir(parents=True)
            (root / "models" / "dit" / version / "saved_model.pb").touch()

    def run(self, *arguments):
        return subprocess.run(
            [BASH, str(LAUNCH / "serve.sh"), *arguments],
            capture_output=True, text=True, timeout=60, cwd=self.root, env={"PATH": str(self.bin)},
        )  # fmt: skip

    def words(self, *arguments):
        """Of the one line that a dry run prints."""
        result = self.run(*arguments, "--dry_run")
        assert result.returncode == 0 and result.stdout.count("\n") == 1, result.stderr
        return shlex.split(result.stdout)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk")


START = ("start", "--models=models/dit")
SEVERAL = ("start", "--models=models", f"--config={SERVING}/models.config")
COMMANDS = [
    START,
    (*START, "--name=digits", "--gpu", "--xla", "--version=2.21.0"),
    (*START, "--foreground", "--address=[::]", "--port=9000", "--rest_port=9001"),
    SEVERAL,
    ("status",),
    ("log", "--name=digits"),
    ("stop",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_dry_run_prints_what_a_real_run_calls(desk, command):
    words = desk.words(*command)
    assert desk.calls() == []
    real = desk.run(*command)
    assert real.returncode == 0, real.stderr
    assert desk.calls() == [words]


def test_printed_lines_survive_blanks_and_apostrophes(desk):
    (desk.root / "models" / "dit").rename(desk.root / "models" / "it's mine")
    mount = f"--mount=type=bind,source={desk.root}/models/it's mine,target=/models/dit,readonly"
    assert mount in desk.words("start", "--models=models/it's mine")


def options_of(words):
    """(docker's, image, the server's) of `docker run`."""
    (at,) = (i for i, word in enumerate(words) if word.startswith("tensorflow/serving:"))
    assert words[:2] == ["docker", "run"] and all(word.startswith("--") for word in words[2:at] + words[at + 1 :])
    return words[2:at], words[at], words[at + 1 :]


def test_one_model_is_served_under_its_name_to_this_machine_alone(desk):
    docker, image, server = options_of(desk.words(*START, "--name=digits"))
    assert image == "tensorflow/serving:2.20.0" and "--detach" in docker and "--gpus=all" not in docker
    assert f"--mount=type=bind,source={desk.root}/models/dit,target=/models/digits,readonly" in docker
    assert {"--env=MODEL_NAME=digits", "--name=digits", "--health-cmd=bash /config/health.sh digits"} < set(docker)
    assert {"--publish=127.0.0.1:8500:8500", "--publish=127.0.0.1:8501:8501"} < set(docker)
    assert not any(option.startswith(("--model_config_file", "--xla")) for option in server)


def test_a_gpu_takes_its_own_image_and_xla_is_allowed_when_asked_for(desk):
    docker, image, server = options_of(desk.words(*START, "--gpu", "--xla", "--version=2.21.0", "--foreground"))
    assert image == "tensorflow/serving:2.21.0-gpu" and "--gpus=all" in docker and "--rm" in docker
    assert "--detach" not in docker and "--xla_cpu_compilation_enabled=true" in server


def test_several_models_are_named_by_a_config_that_the_server_keeps_reading(desk):
    docker, _, server = options_of(desk.words(*SEVERAL))
    assert f"--mount=type=bind,source={desk.root}/models,target=/models,readonly" in docker
    assert f"--mount=type=bind,source={SERVING},target=/models.config.d,readonly" in docker
    assert "--model_config_file=/models.config.d/models.config" in server
    assert "--model_config_file_poll_wait_seconds=60" in server


def test_compose_starts_the_same_server(desk):
    docker, image, server = options_of(desk.words(*SEVERAL))
    (name, service), *others = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"].items()
    assert (name, others) == ("dit", []) and service["image"].replace("${TF_SERVING_TAG:-2.20.0}", "2.20.0") == image
    assert [option.replace("/config/models", "/models.config.d/models") for option in service["command"]] == server
    assert [f"--publish={ports}" for ports in service["ports"]] == [o for o in docker if o.startswith("--publish")]
    assert {volume["target"]: volume["source"] for volume in service["volumes"]} == {
        "/models": "../../models", "/config": "."
    }  # fmt: skip
    assert all(volume["read_only"] and not volume["bind"]["create_host_path"] for volume in service["volumes"])
    check = service["healthcheck"]
    assert f"--health-cmd={check['test']}" in docker
    for key in ("interval", "timeout", "start_period"):
        assert f"--health-{key.replace('_', '-')}={check[key]}" in docker


# Of servables/tensorflow/session_bundle_config.proto and config/monitoring_config.proto, what is used here.
FIELDS = {
    "BatchingParameters": dict(
        max_batch_size="Int64Value", batch_timeout_micros="Int64Value", max_enqueued_batches="Int64Value",
        num_batch_threads="Int64Value", allowed_batch_sizes="int64",
    ),
    "PrometheusConfig": dict(enable="bool", path="string"),
    "MonitoringConfig": dict(prometheus_config="PrometheusConfig"),
}  # fmt: skip


def parsed(name):
    """A message of FIELDS from the file of launch/serving that is called after its first word."""
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    plain = {"int64": (3, 3), "bool": (8, 1), "string": (9, 1)}  # type, and label: repeated 3, optional 1
    for message, fields in FIELDS.items():
        message = file.message_type.add(name=message)
        for number, (field, kind) in enumerate(fields.items(), 1):
            place = ".google.protobuf" if kind == "Int64Value" else ".serving"
            code, label = plain.get(kind, (11, 1))
            field = message.field.add(name=field, number=number, type=code, label=label)
            if kind not in plain:
                field.type_name = f"{place}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}"))()
    source = SERVING / f"{re.match('[A-Z][a-z]+', name)[0].lower()}.config"
    return text_format.Parse(source.read_text(), made)


def test_batches_have_the_sizes_that_an_export_is_warmed_up_for_by_default():
    values = flags.FlagValues()
    define_export(values)
    batching = parsed("BatchingParameters")
    sizes = [int(size) for size in values["batch_sizes"].default]
    assert list(batching.allowed_batch_sizes) == sizes
    assert batching.max_batch_size.value == sizes[-1]
    assert batching.num_batch_threads.value > 1  # or class names wait for images


def test_models_config_names_the_place_that_export_writes_to_by_default():
    values = flags.FlagValues()
    define_export(values)
    text = (SERVING / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert f"/{pathlib.PurePath(values['output'].default).parent}" == model.base_path
    assert (model.name, model.model_platform) == ("dit", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1


def test_the_example_of_versions_and_labels_is_one_that_the_server_reads():
    lines = (SERVING / "models.config").read_text().splitlines()
    example = [line.replace("# ", "", 1) for line in lines if line.startswith("  # ")][1:]
    config = text_format.Parse("\n".join(example), model_server_config_pb2.ModelConfigList())
    assert dict(config.config[0].version_labels) == {"stable": 1, "canary": 2}
    assert list(config.config[0].model_version_policy.specific.versions) == [1, 2]


def test_monitoring_is_at_the_path_that_the_page_names():
    config = parsed("MonitoringConfig")
    assert config.prometheus_config.enable
    assert config.prometheus_config.path in (LAUNCH.parent / "docs" / "serving.md").read_text()


@pytest.fixture
def server():
    """A stand-in for the REST port: {model: state}, and the port."""
    states = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state = states.get(self.path.removeprefix("/v1/models/"))
            self.send_response(200 if state else 404)
            self.end_headers()
            answer = f'{{"model_version_status": [{{"version": "1", "state": "{state}"}}]}}' if state else "{}"
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield states, listening.server_port
    listening.shutdown()
    listening.server_close()


def test_health_is_that_a_version_can_be_asked(server):
    states, port = server

    def healthy(at=port):
        check = [BASH, SERVING / "health.sh", "dit", str(at)]
        return subprocess.run(check, capture_output=True, timeout=20).returncode == 0

    assert not healthy()
    states.update(dit="LOADING", other="AVAILABLE")
    assert not healthy()
    states.update(dit="AVAILABLE")
    assert healthy()
    assert not healthy(at=1)  # nobody listens


@pytest.mark.parametrize("flag, value", [
    ("name", "a/b"), ("name", ""), ("version", "latest"), ("version", "2.20"), ("address", "localhost"), ("port", "0"),
    ("port", "65536"), ("rest_port", "http"), ("models", "none"), ("models", "models"), ("config", "models"),
])  # fmt: skip
def test_a_bad_value_is_one_sentence_with_flag_rule_and_value(desk, flag, value):
    result = desk.run(*START, f"--{flag}={value}", "--dry_run")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"--{flag} must ") and result.stderr.endswith(f"; received '{value}'.\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments, beginning, received", [
    ((), "serve.sh takes a command first, start, ", "received ''"),
    (("start",), "start needs --models=...", "received none"),
    (("start", "models/dit"), "start takes the flags --name, ", "received 'models/dit'"),
    (("stop", "--gpu"), "stop takes the flags --name, --dry_run", "received '--gpu'"),
    ((*START, "--gpu=1"), "--gpu takes no value", "received '--gpu=1'"),
    ((*START, "--port=8501"), "--rest_port must be another than --port", "received '8501' for both"),
    ((*SEVERAL, "--name=digits"), "--name must be a model of --config=", "received 'digits'"),
    ((*SEVERAL, "--models=models/dit"), "--models must hold models with versions", "received 'models/dit'"),
])  # fmt: skip
def test_a_bad_line_is_one_sentence(desk, arguments, beginning, received):
    desk.assert_refused(arguments, beginning, received)


def test_without_docker_only_the_dry_run_works(desk):
    (desk.bin / "docker").unlink()
    assert desk.run("status", "--dry_run").returncode == 0
    result = desk.run("status")
    assert result.returncode == 1 and result.stderr.startswith("serve.sh needs docker")
    assert result.stderr.count("\n") == 1
