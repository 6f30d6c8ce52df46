"""Clients that nobody here wrote, against an index: Poetry, and Sonatype's own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .index_client import make_wheel

CLIENT = "@sonatype/nexus-repo-api-client@3.96.3"
POETRY = "poetry==2.5.1"

SCRIPT = """
const fs = require("fs");
const { ComponentsApi, Configuration } = require("@sonatype/nexus-repo-api-client");
const [base, user, password, file, name] = process.argv.slice(2);
const api = new ComponentsApi(new Configuration({
  basePath: base + "/service/rest", username: user, password: password }));
(async () => {
  const asset = new File([fs.readFileSync(file)], require("path").basename(file));
  await api.createComponents({ repository: "pypi-hosted", pypiAsset: asset });
  const list = async () => {
    let items = [], token;
    do {
      const page = await api.listComponents(
        { repository: "pypi-hosted", continuationToken: token });
      items = items.concat(page.items);
      token = page.continuationToken || undefined;
    } while (token);
    return items;
  };
  const items = await list();
  console.log(JSON.stringify(items.map(i => [i.name, i.version])));
  let code = 0;
  try { await api.createComponents({ repository: "pypi-hosted", pypiAsset: asset }); }
  catch (error) { code = error.response.status; }
  const mine = items.find(i => i.name === name);
  await api.deleteComponents({ id: mine.id });
  console.log(code, (await list()).filter(i => i.name === name).length);
})().catch(e => { console.error(e); process.exit(1); });
"""


@pytest.mark.drill
def test_sonatypes_own_client_uploads_lists_and_deletes(server, tmp_path):
    """The npm client was generated from Nexus's OpenAPI description."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    done = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", CLIENT],
        cwd=tmp_path, check=False, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm cannot fetch {CLIENT}: {done.stderr[-200:]}")
    name = server.name("node")
    filename, content = make_wheel(name, "1.2.3")
    (tmp_path / filename).write_bytes(content)
    (tmp_path / "run.cjs").write_text(SCRIPT, "utf-8")
    done = subprocess.run(
        [node, "run.cjs", server.url, *server.login, filename, name],
        cwd=tmp_path, check=False, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed, verdict = done.stdout.splitlines()
    assert [name, "1.2.3"] in json.loads(listed)
    assert verdict == "400 0"  # no redeploy; gone after the delete


@pytest.mark.drill
def test_poetry_publishes_to_and_installs_from_the_index(server, tmp_path):
    uv = Path(sys.executable).with_name("uv")
    venv = tmp_path / "poetry"
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, venv], check=True)
    done = subprocess.run(
        [uv, "pip", "install", "-q", "-p", venv / "bin/python", POETRY],
        check=False, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"{POETRY} does not install: {done.stderr[-200:]}")
    name = server.name("poem")
    module = name.replace("-", "_")
    project = tmp_path / "project"
    (project / module).mkdir(parents=True)
    (project / module / "__init__.py").write_text("X = 1\n", "utf-8")
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "1.0.0"\nrequires-python = ">=3.11"\n'
        '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
        f'[tool.poetry]\npackages = [{{include = "{module}"}}]\n',
        "utf-8",
    )
    environment = os.environ | {
        "POETRY_CONFIG_DIR": str(tmp_path / "config"),
        "POETRY_CACHE_DIR": str(tmp_path / "cache"),
        "POETRY_REPOSITORIES_OURS_URL": server.upload_url,
        "POETRY_HTTP_BASIC_OURS_USERNAME": server.login[0],
        "POETRY_HTTP_BASIC_OURS_PASSWORD": server.login[1],
        "POETRY_HTTP_BASIC_MAESTRO_USERNAME": server.login[0],
        "POETRY_HTTP_BASIC_MAESTRO_PASSWORD": server.login[1],
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "POETRY_VIRTUALENVS_IN_PROJECT": "true",
    }

    def poetry(folder, *arguments):
        done = subprocess.run(
            [venv / "bin/poetry", *arguments, "--no-interaction"],
            cwd=folder, env=environment, check=False, capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    poetry(project, "publish", "--build", "-r", "ours")
    assert len(server.files(name)) == 2
    user = tmp_path / "user"
    user.mkdir()
    (user / "pyproject.toml").write_text(
        '[project]\nname = "user"\nversion = "1"\nrequires-python = ">=3.11,<4"\n'
        f'dependencies = ["{name}"]\n[tool.poetry]\npackage-mode = false\n'
        '[[tool.poetry.source]]\nname = "maestro"\npriority = "primary"\n'
        f'url = "{server.url}/repository/pypi-group/simple"\n',
        "utf-8",
    )
    poetry(user, "install")
    done = subprocess.run(
        [user / ".venv/bin/python", "-c", f"import {module}"], check=False
    )
    assert done.returncode == 0
