"""What the page says: as HTML, with everything that comes from elsewhere escaped."""

import html

from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Model, Settings

NOISE = (
    "These networks are tiny and random: they show how the page works, and every video is noise."
)
UNEXPECTED = UserError(
    "The video cannot be made",
    expected="a request that the server can carry out",
    got="an error that the server did not expect; its log has it",
    fix="try again, with another picture or other settings",
)


def model_line(model: Model, settings: Settings) -> str:
    """What the page runs."""
    kind = model.mesh.devices.flat[0].platform
    shape = "wide" if settings.height > settings.width else "upright"
    turned = f", or {settings.height} × {settings.width} for {shape} pictures"
    parts = [
        f"Weights <b>{html.escape(model.said['weights'])}</b>",
        f"ControlNet <b>{html.escape(model.said['controlnet'] or 'random')}</b>",
        f"{settings.width} × {settings.height}{turned * (settings.width != settings.height)}",
        f"{model.mesh.size} {html.escape(kind)} device{'s' * (model.mesh.size > 1)}",
    ]
    noise = f'<p class="pj-noise"><b>Tiny model.</b> {NOISE}</p>' if model.is_random else ""
    return f"<p>{' · '.join(parts)}</p>{noise}"


def error_box(error: UserError) -> str:
    """The four parts of an error."""
    parts = (("Expected", error.expected), ("Got", error.got), ("What to do", error.fix))
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(text.strip())}</dd>" for name, text in parts)
    what = html.escape(error.what)
    return f'<div class="pj-error" role="alert"><b>{what}</b><dl>{rows}</dl></div>'


def progress_bar(done: int, total: int) -> str:
    """How far a video is."""
    text = "Making the frames …" if done == total else f"Step {done} of {total}"
    return (
        f'<div class="pj-progress" role="status"><progress value="{done}" max="{total}">'
        f"</progress><span>{text}</span></div>"
    )


def note(text: str) -> str:
    """One line about what happens."""
    return f'<div class="pj-progress" role="status"><span>{html.escape(text)}</span></div>'
