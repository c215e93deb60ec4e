"""A local web page that draws images: pick a class, press Generate, and watch the image appear.

    python -m dit_tf.app --workdir=runs/digits
    python -m dit_tf.app --weights=dit.keras --vae=vae.keras --port=7861
    python -m dit_tf.app --server=grpc://localhost:8500

Without a model it shows the newest that launch/demo.sh has trained. The page asks nothing of any other host.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import contextlib
import glob
import os
import threading

from dit_tf import flags
from dit_tf.app.checkpoint import Checkpoint
from dit_tf.app.served import Served

_DEMOS = "runs/digits-demo-*"  # where launch/demo.sh trains; their names end with the time
_PATIENCE = 2.0  # seconds for all threads to end after Ctrl-C
_MODELS = ("workdir", "weights", "server")


def main(options):
    gradio_page = import_page()
    page = gradio_page.make_page(source(options))
    address = f"http://{options.host}:{options.port}"
    try:
        with without_proxies():
            gradio_page.launch(page, options.host, options.port)
    except OSError as error:
        raise ValueError(
            f"--port must be free on --host; {address} cannot be opened: another program has it, or the host is not "
            f"this machine. Try --port={options.port + 1}."
        ) from error
    print(f"The page is at {address} until Ctrl-C.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        # Threads that still talk to a browser would keep the program as long as it stays there.
        end = threading.Timer(_PATIENCE, os._exit, [130])
        end.daemon = True
        end.start()
        raise


@contextlib.contextmanager
def without_proxies():
    """Gradio makes a client of HTTP when it is imported, asks its own page when that opens, and asks nobody else. A
    proxy would not find the page, and one of SOCKS needs a package: so none is known there, and those of the
    environment afterwards."""
    names = ("no_proxy", "NO_PROXY")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "*"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


def import_page():
    """The module that needs gradio, which nothing else does."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        with without_proxies():
            from dit_tf.app import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("The page needs gradio, which is not installed: pip install '.[app]'.") from error
    return page


def source(options):
    """What draws the page's images: a `Checkpoint` or a `Served` address. ValueError where the flags do not agree."""
    if not 1 <= options.port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {options.port}.")
    given = [f"--{name}={getattr(options, name)}" for name in _MODELS if getattr(options, name)]
    if len(given) > 1:
        raise ValueError(f"One of --workdir, --weights and --server shows one model, got {' and '.join(given)}.")
    if not options.server:
        return Checkpoint(options if given else with_demo(options))
    if options.vae:
        raise ValueError(f"--vae goes with --workdir and --weights; --server has its own, got --vae={options.vae}.")
    return Served(options.server, options.model)


def with_demo(options):
    """The options with the --workdir of the newest demo that has ended."""
    found = glob.glob(f"{_DEMOS}/model.keras")
    if not found:
        raise ValueError(f"No model is in {_DEMOS}: run launch/demo.sh, or give --workdir, --weights or --server.")
    options.workdir = os.path.dirname(max(found))
    return options


if __name__ == "__main__":
    flags.run(main, flags.define_app, resumes=False)
