import os
import shutil

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: CI installs it")
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page offline; at the end nothing has been asked of any other place, and no script has failed."""
    pages, requests, problems = [], [], []

    def open_page(path, fragment="", **context):
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **context})
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(path.as_uri() + fragment)
        if page.locator("#viewer").count():
            page.wait_for_selector("#viewer[data-ready]")
        pages.append(page)
        return page

    open_page.problems = problems
    yield open_page
    assert problems == []
    assert {url.split("#")[0] for url in requests} <= {page.url.split("#")[0] for page in pages}
    for page in pages:
        page.close()
