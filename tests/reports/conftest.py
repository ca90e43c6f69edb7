"""A browser for the pages."""

import shutil

import pytest

SWITCHES = ('--no-sandbox', '--disable-quic', '--use-gl=angle', '--use-angle=swiftshader')
SWITCHES += ('--enable-unsafe-swiftshader',)


@pytest.fixture(scope='session')
def browser():
    """Chromium, which draws WebGL without a graphics card."""
    path = shutil.which('chromium') or shutil.which('google-chrome')
    if path is None:
        pytest.skip('needs Chromium: apt-get install chromium')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """A function that opens a page, which may not load anything from elsewhere nor tell of an error.

    ``at`` is the address of a server that has the folder of the page.
    """
    contexts, troubles = [], []

    def visit(path, *, at='', before='', **settings):
        context = browser.new_context(viewport={'width': 1000, 'height': 800}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(300_000)  # machines that are busy
        page.on('pageerror', lambda error: troubles.append(str(error)))
        page.on('console', lambda told: troubles.append(told.text) if told.type == 'error' else None)
        page.on('request', lambda asked: troubles.append(asked.url) if is_outside(asked.url, at) else None)
        if before:
            page.add_init_script(before)
        page.goto(at + path.name if at else path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert troubles == []


def is_outside(url, at):
    return not url.startswith((at or 'file:', 'blob:', 'data:'))
