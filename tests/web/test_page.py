"""The page as Gradio builds it, without a browser; and the command line of the demo."""

import socket

import pytest

from posetraj_jax import demo
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings
from posetraj_jax.web.desk import Desk
from posetraj_jax.web.examples import write_examples
from tests.sampling.models import micro_model


def test_examples_are_one_picture_of_each_object(tmp_path):
    paths = write_examples(tmp_path)
    assert len(paths) == len({path.stem for path in paths}) == 8
    assert all(path.is_file() for path in paths)


def test_the_page_is_built_and_offers_no_interface_to_programs(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install .[demo]")
    from posetraj_jax.web import page

    blocks = page.build(Desk(micro_model(), tmp_path), Settings(height=64, width=64), [])
    config = blocks.get_config_file()
    assert config["title"] == page.TITLE
    assert blocks.get_api_info()["named_endpoints"] == {}
    assert "every video is noise" in str(config)
    assert not blocks.analytics_enabled


def test_a_port_that_is_taken_is_named(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install .[demo]")
    from posetraj_jax.web import page

    blocks = page.build(Desk(micro_model(), tmp_path), Settings(height=64, width=64), [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}"):
            page.launch(blocks, "127.0.0.1", port)


def test_without_gradio_the_program_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[demo\]"'):
        demo.main(["--weights=tiny"])


def test_settings_are_checked_before_anything_is_loaded():
    with pytest.raises(UserError, match="nearest are 64 or 128"):
        demo.main(["--weights=nowhere", "--height=100"])


@pytest.mark.parametrize("port", ["-1", "0", "65536", "1" + "0" * 400])
def test_what_is_no_port_is_refused_before_anything_is_loaded(port):
    with pytest.raises(UserError, match="--port from 1 to 65535"):
        demo.main(["--weights=nowhere", f"--port={port}"])


def test_without_weights_it_is_refused():
    with pytest.raises(UserError, match="--weights tiny"):
        demo.main([])


def test_it_serves_this_machine_alone_by_default():
    assert demo.parse([]).host == "127.0.0.1"
