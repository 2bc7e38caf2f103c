"""The web page: open a picture, draw where things go, get a video.

    python -m posetraj_jax.demo --weights WEIGHTS --controlnet RUN

Needs Gradio: `pip install -e ".[demo]"` in the folder of the repository. The page is at
http://127.0.0.1:7860, for this machine alone unless --host says otherwise; it asks nothing of the
internet. --weights tiny takes small random networks, whose videos are noise. The settings are those
that the page begins with. docs/demo.md has more.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import threading
from pathlib import Path

from posetraj_jax import errors
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Model, Settings, command_line
from posetraj_jax.web.desk import Desk
from posetraj_jax.web.examples import write_examples

MOST_PORT = 65_535


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and serves the page until it is stopped."""
    o = parse(sys.argv[1:] if arguments is None else arguments)
    settings = command_line.settings_of(o)
    require_gradio()
    require_port(o.port)
    serve(command_line.load(o), settings, o.host, o.port)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m posetraj_jax.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address that the page is served at; 0.0.0.0: to all machines (%(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help=f"1 to {MOST_PORT} (%(default)s)")
    command_line.add_model(parser)
    command_line.add_settings(parser)
    return parser.parse_args(arguments)


def require_gradio() -> None:
    """Refuses to begin without the library that the page is made with."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "The web page cannot be shown",
            expected="Gradio",
            got="an environment without it",
            fix='pip install -e ".[demo]" in the folder of the repository',
        )


def require_port(port: int) -> None:
    """Refuses a number that is no port, before the model is loaded."""
    if not 1 <= port <= MOST_PORT:
        raise UserError(
            "The page cannot be served",
            expected=f"--port from 1 to {MOST_PORT}",
            got=f"{port}" if abs(port) < 10**15 else "a number of more than 15 digits",
            fix="choose another --port",
        )


def serve(model: Model, settings: Settings, host: str, port: int) -> None:
    """Serves the page until an exception, such as Ctrl-C or SIGTERM, ends the program."""
    with tempfile.TemporaryDirectory(prefix="posetraj-demo-") as temporary:
        folders = {name: Path(temporary, name) for name in ("results", "examples", "gradio")}
        for folder in folders.values():
            folder.mkdir()
        # All that Gradio keeps goes with the rest. It is imported here: few need it.
        os.environ["GRADIO_TEMP_DIR"] = str(folders["gradio"])
        from posetraj_jax.web import page

        blocks = page.build(
            Desk(model, folders["results"]), settings, write_examples(folders["examples"])
        )
        try:
            print(f"the page is at {page.launch(blocks, host, port)}", flush=True)
            threading.Event().wait()
        finally:
            blocks.close()


if __name__ == "__main__":
    errors.run(main)
