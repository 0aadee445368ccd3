"""What stands at the door besides the API: the documentation page, and the rule that an open door needs a token."""

import subprocess
import urllib.request

from conftest import required


def test_the_documentation_is_served_without_a_network(url):
    with urllib.request.urlopen(f"{url}/docs/", timeout=30) as page:
        assert page.headers["content-type"].startswith("text/html")
        assert b"swagger-ui" in page.read()
    with urllib.request.urlopen(f"{url}/docs/swagger-ui-bundle.js", timeout=30) as script:
        assert len(script.read()) > 100_000


def test_a_queen_refuses_an_open_address_without_a_token(tmp_path):
    command = [required("RBEE_BIN_DIR") / "queen-rbee", "daemon", "--bind", "0.0.0.0", "--port", "0"]
    outcome = subprocess.run(
        [*command, "--local-hive", "off", "--data-dir", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 1
    assert "without a token" in outcome.stderr
