"""The page of dit_tf.app, in Gradio."""

import html
import random

import gradio
import tensorflow as tf

from dit_tf.app.drawing import CSS, status_of, updates, way_of
from dit_tf.app.request import checked
from dit_tf.data.class_names import UNLABELLED
from dit_tf.samplers.options import DEFAULT_STEPS

_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # those that are there: none is fetched
_NARROW = dict(min_width=80)


def make_page(source):
    """The page of a `Checkpoint` or of a `Served` address."""
    with gradio.Blocks(title="dit_tf", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.HTML(f'<div id="heading"><h1>dit_tf</h1>{html.escape(source.title)}</div>')
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                fields = _, seed, _, sampler, steps = _fields(source)
                with gradio.Row():
                    another = gradio.Button("Another seed", elem_id="another", **_NARROW)
                    generate = gradio.Button("Generate", variant="primary", elem_id="generate", **_NARROW)
                status = gradio.HTML(status_of("Choose, and press Generate."), elem_id="status")
            with gradio.Column(scale=3, min_width=400):
                image = gradio.Image(
                    label="Image", format="png", height=424, buttons=["download"], interactive=False, elem_id="image"
                )
        way = gradio.HTML(way_of(source, {}))
        first_command = source.command(checked(*(field.value for field in fields)))
        command = gradio.Code(
            first_command, label="The same image from the command line", interactive=False, wrap_lines=True,
            show_line_numbers=False, lines=1, buttons=["copy"], elem_id="command",
        )  # fmt: skip

        def draw(*values):
            try:
                yield from updates(source, checked(*values))
            except (ValueError, tf.errors.OpError) as error:
                raise gradio.Error(html.escape(str(error).splitlines()[0]), print_exception=False) from error

        drawing = dict(inputs=fields, outputs=[image, way, command, status], show_progress="hidden")
        generate.click(draw, **drawing)
        another.click(lambda: str(random.randrange(2**31)), outputs=seed).then(draw, **drawing)
        sampler.input(DEFAULT_STEPS.get, inputs=sampler, outputs=steps)  # once, when a person chooses
    return page


def _fields(source):
    """The inputs of `checked`; where the source leaves no choice they are not seen."""
    first = source.samplers[0] if source.samplers else None
    label = gradio.Dropdown(
        _choices(source.classes), value=0, label="Class", visible=source.classes != UNLABELLED, elem_id="class"
    )
    scale = gradio.Slider(
        1, 10, value=source.usual_scale if source.guided else 1.0, step=0.1, label="Guidance scale",
        visible=source.guided, elem_id="scale",
    )  # fmt: skip
    with gradio.Row():
        shown = dict(visible=bool(source.samplers), **_NARROW)
        sampler = gradio.Dropdown(source.samplers, value=first, label="Sampler", elem_id="sampler", **shown)
        steps = gradio.Number(DEFAULT_STEPS.get(first), label="Steps", precision=0, elem_id="steps", **shown)
        # No Number: a browser rounds what is above 2^53.
        seed = gradio.Textbox("0", label="Seed", max_lines=1, elem_id="seed", **_NARROW)
    return label, seed, scale, sampler, steps


def _choices(classes):
    """[(what is read and searched, label)]: number, name and id."""
    columns = [map(str, range(len(classes))), classes.names, *([classes.ids] if classes.ids else [])]
    return [(" ".join(dict.fromkeys(texts)), label) for label, texts in enumerate(zip(*columns))]


def launch(page, host, port):
    """Serve the page from threads of their own. OSError where the address cannot be opened."""
    theme = gradio.themes.Default(primary_hue="indigo", neutral_hue="slate", font=_FONTS[0], font_mono=_FONTS[1])
    page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, theme=theme, css=CSS, footer_links=[],
        ssr_mode=False, share=False, mcp_server=False,
    )  # fmt: skip
