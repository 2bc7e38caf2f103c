"""How mistakes reach the user: four parts, all at once, printable, exit code 2."""

from pathlib import Path

import pytest

from posetraj_jax.errors import UserError, all_of, listed, run


def refuse(what):
    raise UserError(what, expected="order", got=f"chaos of {what}", fix="tidy up")


def interrupt():
    raise KeyboardInterrupt


def test_all_that_is_wrong_is_said_at_once():
    assert all_of("nothing fits", [lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(UserError, match=r"^a\n.*expected: order\n.*got: .*chaos of a\n.*tidy up$"):
        all_of("nothing fits", [lambda: 1, lambda: refuse("a")])
    with pytest.raises(UserError) as caught:
        all_of("nothing fits", [lambda: refuse("a"), lambda: 1, lambda: refuse("b")])
    message = str(caught.value)
    assert message.startswith("nothing fits\n")
    assert message.count("order") == message.count("tidy up") == 1
    assert "a: chaos of a" in message
    assert "b: chaos of b" in message


def test_what_strangers_files_say_is_printable_and_short():
    text = listed(["\x1b[31mred\nline", "x" * 1000, "schön"], limit=3)
    assert "\x1b" not in text
    assert "\\x1b[31mred\\nline" in text
    assert "schön" in text
    assert len(text) < 400
    assert listed(["a"] * 5, limit=2).endswith("… and 3 more")


@pytest.mark.parametrize(
    ("main", "code", "words"),
    [
        (lambda: None, 0, ""),
        (lambda: 5, 5, ""),
        (lambda: refuse("it"), 2, "error: it\n"),
        (lambda: Path("x" * 300).stat(), 2, "error: the system refuses"),
        (interrupt, 130, ""),
    ],
    ids=["ends", "says its code", "user error", "name too long", "Ctrl-C"],
)
def test_exit_codes_of_an_entry_point(main, code, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == code
    assert words in capsys.readouterr().err
