"""The page in a real browser: a photo, its samples, one pixel, a bad file."""

from __future__ import annotations

import re
import shutil
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from service_world import running
from tiny import tiny_prior

import latino_engine as le

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
PHOTO = resources.files("latino_engine") / "assets" / "coffee.png"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--window-size=1200,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "tiny.engine"
    le.compile(tiny_prior(), path, image_size=16)
    with running({"tiny": le.load(path, threads=1)}) as client:
        yield str(client.base_url)


@pytest.fixture
def photo(tmp_path):
    pixels = np.asarray(Image.open(str(PHOTO)))[:32, :40]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def find(browser, name):
    return browser.find_element(By.ID, name)


def wait(browser, condition):
    return WebDriverWait(browser, 120).until(condition)


def sample(browser, url, path, kind="blur"):
    browser.get(url)
    wait(browser, lambda b: Select(find(b, "engine")).options)
    Select(find(browser, "kind")).select_by_value(kind)
    find(browser, "image").send_keys(str(path))
    find(browser, "go").click()


def test_a_photo_is_sampled_and_a_pixel_is_shown(browser, url, photo):
    sample(browser, url, photo)
    wait(browser, lambda b: find(b, "results").is_displayed() or find(b, "error").text)
    assert find(browser, "error").text == ""
    captions = [found.text for found in browser.find_elements(By.TAG_NAME, "figcaption")]
    assert captions[:2] == ["measurement", "mean"]
    assert captions[2].startswith("standard deviation (white: ")
    assert captions[3:] == [f"sample {i}" for i in (1, 2, 3, 4)]
    images = browser.find_elements(By.CSS_SELECTOR, "figure img")
    sizes = [(i.get_property("naturalWidth"), i.get_property("naturalHeight")) for i in images]
    assert sizes == [(40, 32)] * 7
    before = find(browser, "pixel-text").text
    assert before.startswith("Row 16, column 20: mean ")
    images[3].click()  # in its middle
    middle = find(browser, "pixel-text").text
    assert re.match(r"Row 1[56], column (19|20): mean ", middle)  # a middle between two pixels
    Select(find(browser, "channel")).select_by_visible_text("blue")
    assert find(browser, "pixel-text").text.split(":")[1] != middle.split(":")[1]
    drawn = browser.execute_script(
        "const c = document.getElementById('histogram');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".filter((v, i) => i % 4 === 2 && v > 150).length"
    )
    assert drawn > 100  # blue pixels of its bars
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


def test_a_bad_file_is_told_in_one_sentence(browser, url, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_text("no image")
    sample(browser, url, bad)
    wait(browser, lambda b: find(b, "error").text)
    assert find(browser, "error").text.startswith("image: expected an image file, got one that")
    assert find(browser, "go").is_enabled()


def test_a_mask_is_asked_for_and_used(browser, url, photo, tmp_path):
    sample(browser, url, photo, "mask")
    wait(browser, lambda b: find(b, "error").text == "Choose the mask file first.")
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    find(browser, "mask").send_keys(str(tmp_path / "mask.png"))
    find(browser, "go").click()
    wait(browser, lambda b: find(b, "results").is_displayed())
    assert "50.0 % observed" in find(browser, "figures").text


def test_the_sliders_are_those_of_the_operator(browser, url):
    browser.get(url)
    wait(browser, lambda b: Select(find(b, "engine")).options)
    assert not find(browser, "mask-label").is_displayed()
    assert not find(browser, "token-label").is_displayed()
    kinds = [option.get_attribute("value") for option in Select(find(browser, "kind")).options]
    for kind in kinds:
        Select(find(browser, "kind")).select_by_value(kind)
        text = browser.execute_script("return operator()")
        if ":" in text and not text.endswith(("=mask", "=kernel")):
            le.operator(text, 0.05, (256, 256))  # the command line understands it
