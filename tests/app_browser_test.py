"""The page of `python -m dit_tf.app` in a browser."""

import io
import shlex
import shutil
import signal
import socket
import urllib.request

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.commands import CLOSED_PROXY, Command, run_command

_SECONDS = 60  # until the page answers, on a busy machine
_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def page_process(trained):
    """(the process of the page, its address)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = Command("dit_tf.app", f"--workdir={trained}", f"--port={port}", environment=CLOSED_PROXY)
    try:
        assert f"http://127.0.0.1:{port}" in process.line("")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()


@pytest.fixture(scope="module")
def browser(page_process, tmp_path_factory):
    """The browser with the page, which has drawn nothing yet."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("the page is seen by chromium and chromedriver, which are not installed here")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (*_QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.implicitly_wait(_SECONDS)
    driver.get(page_process[1])
    yield driver
    driver.quit()


def test_behind_a_proxy_that_does_not_answer_the_page_does(page_process):
    """Needs no browser: the test asks without any proxy of its own."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page_process[1], timeout=_SECONDS) as answer:
        assert answer.status == 200 and b'"title":"dit_tf"' in answer.read()


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def type_into(browser, selector, text):
    field = find(browser, f"{selector} input")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text, Keys.ENTER)


def generate(browser):
    find(browser, "#generate").click()
    WebDriverWait(browser, _SECONDS).until(lambda _: "Drawn in" in find(browser, "#status").text)


def pixels(source):
    """(H, W, C) uint8 of an address, http: or data:."""
    with urllib.request.urlopen(source) as file:
        return np.asarray(Image.open(io.BytesIO(file.read())))


@pytest.fixture(scope="module")
def drawn(browser):
    """The page after a person has drawn a seven."""
    type_into(browser, "#class", "7")
    for sampler, steps in (("dpmpp", "20"), ("ddim", "250")):  # ddim's are also what is there at first
        type_into(browser, "#sampler", sampler)
        WebDriverWait(browser, _SECONDS).until(
            lambda _, steps=steps: find(browser, "#steps input").get_attribute("value") == steps
        )
    type_into(browser, "#steps", "20")
    type_into(browser, "#seed", "5")
    generate(browser)
    return browser


def test_the_image_is_that_of_the_command_that_is_copied(drawn, tmp_path):
    allowed = dict(permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    drawn.execute_cdp_cmd("Browser.grantPermissions", allowed)
    find(drawn, "#command button").click()
    command = drawn.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert command == find(drawn, "#command .cm-content").text.replace("\n", "")
    python, *arguments = shlex.split(command)
    assert python == "python" and {"--labels=7", "--seed=5", "--sampler=ddim", "--num_steps=20"} < {*arguments}
    path = tmp_path / "samples.npz"
    assert arguments.pop(0) == "-m" and run_command(*arguments, f"--output={path}").returncode == 0

    image = pixels(find(drawn, "#image img").get_attribute("src"))
    factor = len(image) // 8
    assert image.shape == (384, 384, 3)
    with np.load(path) as arrays:
        enlarged = arrays["arr_0"][0].repeat(factor, 0).repeat(factor, 1)
    np.testing.assert_array_equal(image, np.broadcast_to(enlarged, image.shape))


def test_the_way_has_six_pictures_of_which_the_last_is_the_image(drawn):
    figures = drawn.find_elements(By.CSS_SELECTOR, "#way figure")
    assert [f.text for f in figures] == ["noise", "step 10", "step 14", "step 17", "step 19", "image"]
    way = [pixels(img.get_attribute("src")) for img in drawn.find_elements(By.CSS_SELECTOR, "#way img")]
    image = pixels(find(drawn, "#image img").get_attribute("src"))
    np.testing.assert_array_equal(way[-1], image[::48, ::48, 0])
    # The nearer to the end, the nearer to the image: noise is taken away and none of it comes back.
    distances = [np.abs(picture.astype(float) - way[-1]).mean() for picture in way]
    assert distances == sorted(distances, reverse=True)


def test_another_seed_draws_another_image(drawn):
    before = find(drawn, "#image img").get_attribute("src")
    find(drawn, "#another").click()
    WebDriverWait(drawn, _SECONDS).until(
        lambda _: "Drawn in" in find(drawn, "#status").text and find(drawn, "#image img").get_attribute("src") != before
    )
    assert find(drawn, "#seed input").get_attribute("value") != "5"


def test_what_does_not_fit_is_said_in_one_sentence(drawn):
    type_into(drawn, "#steps", "1001")
    find(drawn, "#generate").click()
    said = "--num_steps must be from 1 to 1000, got 1001."
    WebDriverWait(drawn, _SECONDS).until(lambda _: said in find(drawn, ".toast-body").text)


def test_the_page_asks_no_other_host(drawn, page_process):
    asked = drawn.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(asked) > 10 and all(name.startswith((page_process[1], "data:")) for name in asked)


def test_ctrl_c_ends_with_one_sentence(drawn, page_process):
    process, _ = page_process
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=_SECONDS)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "dit_tf.app: interrupted; nothing was written."
