"""A page in Debian's chromium, as a reader meets it."""

import json
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By


def start_chromium() -> webdriver.Chrome:
    """Start a browser without a screen; the test is skipped where there is none, unless CI=true."""
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        reason = "Debian's chromium and chromium-driver are not both installed"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    headless = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    for flag in (*headless, "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(paths[1]))


class Page:
    """A page in the browser, as a reader sees it; ``place`` begins all that it may ask for."""

    def __init__(self, driver, address, place=None):
        self.driver, self.place = driver, place or address
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(address)

    def find_all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        # At once: nodes that were found may be gone by the time they are asked.
        script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)"
        return self.driver.execute_script(script, selector)

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.driver.switch_to.active_element.get_property("textContent")

    def complaints(self):
        """What stands in the console, and whatever was asked of anywhere else."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        others = [url for url in asked if not url.startswith(("data:", self.place))]
        return self.driver.get_log("browser") + others
