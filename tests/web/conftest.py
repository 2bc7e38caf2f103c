import pytest

from tests.web.browsing import CHROMIUM, SMALL, Person, serving


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install .[browser]"
    )
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install .[demo]")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """The page of the narrowest networks; its steps take long enough to be stopped between."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, *SMALL, WEB_TEST_STEP_S="0.3") as running:
        yield running


@pytest.fixture
def people(browser, server):
    """Lets somebody come to the page; afterwards nobody's browser has asked another host."""
    came = []

    def come() -> Person:
        came.append(Person(browser, server.url))
        return came[-1]

    yield come
    for person in came:
        person.leave()
        assert person.hosts == {"127.0.0.1"}
        assert not person.mistakes


@pytest.fixture
def person(people):
    return people()
