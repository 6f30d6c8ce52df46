"""Where the index is and who we are there.

Settings come from tools/release.yaml, over them the environment. User and
password come from the environment, from .pypirc or from the keyring, in that
order; they are never written to a command line or printed.

MAESTRO_INDEX_URL        a real server, for example https://nexus.example.com
MAESTRO_INDEX_USER       who publishes there
MAESTRO_INDEX_PASSWORD   their password or token
MAESTRO_INDEX_PORT       port of the embedded index when there is no URL
"""

import configparser
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maestro_release.errors import UsageFault

SETTINGS = Path("tools", "release.yaml")
DEFAULTS: dict[str, Any] = {
    "url": None,
    "port": 28081,
    "hosted": "pypi-hosted",
    "group": "pypi-group",
    "raw": None,
    "pypirc": "maestro",
    "timeout": 30.0,
    "upload_timeout": 120.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach the index; without `url` it is the embedded one."""

    url: str | None  # https://nexus.example.com, without /repository/...
    port: int  # of the embedded index
    hosted: str  # repository that takes uploads
    group: str  # repository that people install from
    raw: str | None  # raw repository for provenance and SBOM
    pypirc: str  # section of .pypirc
    timeout: float  # seconds until a page must come
    upload_timeout: float  # seconds without progress until an upload is given up
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def read_settings(
    root: Path, *, environ: Mapping[str, str] = os.environ, home: Path | None = None
) -> Settings:
    """Put the settings of a checkout together.

    Raises:
        UsageFault: a setting is unknown or has the wrong type, or a file cannot
            be read; names the file.
    """
    values = DEFAULTS | read_file(root / SETTINGS)
    if environ.get("MAESTRO_INDEX_URL"):
        values["url"] = environ["MAESTRO_INDEX_URL"]
    if environ.get("MAESTRO_INDEX_PORT"):
        try:
            values["port"] = int(environ["MAESTRO_INDEX_PORT"])
        except ValueError:
            raise UsageFault(
                f"MAESTRO_INDEX_PORT is {environ['MAESTRO_INDEX_PORT']!r}, not a number"
            ) from None
    if not 0 <= values["port"] <= 65535:
        raise UsageFault(f"port {values['port']} is none, wanted 0 to 65535")
    settings = Settings(**values)
    settings = with_pypirc(settings, (home or Path.home()) / ".pypirc")
    settings = replace(
        settings,
        user=environ.get("MAESTRO_INDEX_USER") or settings.user,
        password=environ.get("MAESTRO_INDEX_PASSWORD") or settings.password,
    )
    if settings.url is None:
        return settings
    return with_keyring(replace(settings, url=base_url(settings.url)))


def read_file(path: Path) -> dict[str, Any]:
    """Return the `index` section of the settings file, checked; {} without one."""
    if not path.exists():
        return {}
    from maestro_yaml_config_parser import load
    from maestro_yaml_config_parser.errors import ConfigError

    try:
        document = load(path).to_dict()
    except ConfigError as error:
        raise UsageFault(str(error)) from error
    section = document.get("index") or {}
    if set(document) - {"index"} or not isinstance(section, dict):
        raise UsageFault(f"{path}: one section `index` is allowed, with settings in it")
    for key, value in section.items():
        if key not in DEFAULTS:
            raise UsageFault(
                f"{path}: no setting {key!r}; there are {', '.join(DEFAULTS)}"
            )
        wanted = type(DEFAULTS[key] if DEFAULTS[key] is not None else "")
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            section[key] = float(value)
        elif not isinstance(value, wanted) or isinstance(value, bool):
            raise UsageFault(f"{path}: {key} is {value!r}, wanted {wanted.__name__}")
    return section


def base_url(url: str) -> str:
    """Return the server's address without a repository's path.

    Raises:
        UsageFault: it is no http address, or carries a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageFault(f"the index URL is {url!r}, wanted http://... or https://...")
    if parts.username or parts.password:
        raise UsageFault(
            "the index URL holds a user or password; "
            "put them into MAESTRO_INDEX_USER and MAESTRO_INDEX_PASSWORD"
        )
    return url.split("/repository/", maxsplit=1)[0].rstrip("/")


def with_pypirc(settings: Settings, path: Path) -> Settings:
    """Add what the section of .pypirc says, where nothing else says it."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageFault(
            f"{path}: {type(error).__name__}, is this an INI file?"
        ) from None
    if not parser.has_section(settings.pypirc):
        return settings
    section = parser[settings.pypirc]
    address = section.get("repository")
    if settings.url and address and base_url(address) != base_url(settings.url):
        return settings  # a section about another server
    return replace(
        settings,
        url=settings.url or address,
        user=section.get("username"),
        password=section.get("password"),
    )


def with_keyring(settings: Settings) -> Settings:
    """Ask the keyring for what is missing, when it is there and unlocked."""
    if settings.user and settings.password:
        return settings
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return settings
    with contextlib.suppress(KeyringError, RuntimeError):
        found = keyring.get_credential(str(settings.url), settings.user)
        if found is not None:
            return replace(settings, user=found.username, password=found.password)
    return settings
