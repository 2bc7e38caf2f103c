"""The page: where everything is, and which handler it is connected to."""

from pathlib import Path

import gradio as gr

from posetraj_jax.errors import UserError
from posetraj_jax.picture import FORMATS
from posetraj_jax.sampling import Settings
from posetraj_jax.trajectories.track import MOST_TRACKS
from posetraj_jax.video import track_colours
from posetraj_jax.web import choices, words
from posetraj_jax.web.desk import Desk
from posetraj_jax.web.handlers import ANSWER, Handlers
from posetraj_jax.web.pictures import MOST_BYTES

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("geometry.js", "tracks.js", "canvas.js", "editor.js")
TITLE = "PoseTraj: draw where things go"
SUFFIXES = [".jpg", *(f".{name.lower()}" for name in FORMATS)]
FILES_STAY_SECONDS = 3600
WAITING = 32
"""Requests for videos that may wait; more are told to come back."""
FONTS = ["system-ui", "sans-serif"]
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


def build(desk: Desk, settings: Settings, examples: list[Path]) -> gr.Blocks:
    """The page of one model.

    Args:
        desk: makes the videos.
        settings: those that the page begins with.
        examples: pictures to begin with.
    """
    handlers = Handlers(desk, settings, examples)
    delete = (FILES_STAY_SECONDS // 6, FILES_STAY_SECONDS)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=delete) as blocks:
        gr.HTML(f"<h1>{TITLE}</h1>{words.model_line(desk.model, settings)}", elem_id="pj-head")
        parts = {"message": gr.HTML("", elem_id="pj-message")}
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=420):
                parts |= _drawing()
            with gr.Column(scale=1, min_width=420):
                parts |= _choosing(settings, examples)
        parts |= _results()
        parts["opened"] = gr.State(None)
        _connect(blocks, parts, handlers)
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int) -> str:
    """Serves a page and returns its address.

    Raises:
        UserError: that address cannot be had.
    """
    blocks.queue(default_concurrency_limit=4, max_size=WAITING)
    theme = gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["monospace"]).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    )
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            mcp_server=False,
            theme=theme,
            css_paths=[STATIC / "style.css"],
        )
    except OSError as error:
        raise UserError(
            f"The page cannot be served at {host}, port {port}",
            expected="an address of this machine, and a port that nobody uses",
            got="one that is taken or not to be had",
            fix="choose another --port or --host",
        ) from error
    return address


def _drawing() -> dict[str, gr.Component]:
    parts = {}
    with gr.Row():
        parts["upload"] = gr.UploadButton(
            "Open a picture", file_types=SUFFIXES, variant="primary", size="md"
        )
        parts["load"] = gr.UploadButton("Load tracks", file_types=[".json"], size="md")
    parts["canvas"] = gr.HTML(
        {},
        html_template=(STATIC / "canvas.html").read_text(),
        js_on_load="\n".join((STATIC / name).read_text() for name in SCRIPTS),
        apply_default_css=False,
        elem_id="pj-canvas",
        colours=[f"rgb{colour}" for colour in track_colours(MOST_TRACKS)],
    )
    return parts


def _choosing(settings: Settings, examples: list[Path]) -> dict[str, gr.Component]:
    parts = {}
    parts["examples"] = gr.Gallery(
        [(str(path), path.stem) for path in examples],
        label="Examples: pictures to begin with",
        show_label=False,
        elem_id="pj-examples",
        columns=4,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )
    for choice in choices.FIRST:
        parts[choice.field] = _slider(choice, settings)
    with gr.Accordion("More settings", open=False):
        for choice in choices.MORE:
            parts[choice.field] = _slider(choice, settings)
    with gr.Row():
        parts["generate"] = gr.Button("Generate", variant="primary", elem_id="pj-generate")
        parts["cancel"] = gr.Button("Cancel", interactive=False, elem_id="pj-cancel")
    parts["progress"] = gr.HTML("", elem_id="pj-progress")
    return parts


def _results() -> dict[str, gr.Component]:
    parts = {}
    options = {"autoplay": True, "loop": True, "interactive": False, "buttons": ["download"]}
    with gr.Row():
        parts["video"] = gr.Video(label="Video", elem_id="pj-video", **options)
        parts["overlay"] = gr.Video(label="With its tracks", elem_id="pj-overlay", **options)
    parts["files"] = gr.File(
        label="Download: videos, settings, tracks, picture",
        file_count="multiple",
        interactive=False,
        elem_id="pj-files",
    )
    return parts


def _slider(choice: choices.Choice, settings: Settings) -> gr.Slider:
    value = getattr(settings, choice.field)
    least = choices.RANGES[choice.field][0]
    return gr.Slider(
        least,
        max(choice.most, value),
        value=value,
        step=choice.step,
        label=choice.label,
        info=choice.info,
        elem_id=f"pj-{choice.field}",
    )


def _connect(blocks: gr.Blocks, parts: dict[str, gr.Component], handlers: Handlers) -> None:
    sliders = [parts[choice.field] for choice in choices.ALL]
    opened, canvas = parts["opened"], parts["canvas"]
    drawn = [parts["message"], opened, canvas]
    # Pictures are large: one is read at a time.
    one = {"concurrency_limit": 1, "concurrency_id": "pictures", **PRIVATE}
    parts["upload"].upload(handlers.open_upload, parts["upload"], drawn, **one)
    parts["examples"].select(handlers.open_example, None, drawn, **one)
    inputs = [parts["load"], opened, *sliders]
    parts["load"].upload(handlers.load_tracks, inputs, drawn, **one)

    answered = [parts[name] for name in ANSWER]
    now = {"queue": False, **PRIVATE}
    making = (
        parts["generate"]
        .click(handlers.begin, None, answered, **now)
        .then(
            handlers.generate,
            [opened, canvas, *sliders],
            answered,
            concurrency_limit=1,
            concurrency_id="videos",
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=parts["progress"],
        )
    )
    parts["cancel"].click(handlers.cancel, None, answered, cancels=[making], **now)
    blocks.unload(handlers.leave)
