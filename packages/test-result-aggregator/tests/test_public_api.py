"""What the package promises at its top, and what importing it costs."""

import subprocess
import sys

import maestro_test_result_aggregator as package


def test_every_public_name_exists():
    """Lazy ones too."""
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert dir(package) == sorted(package.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """As in any module."""
    assert not hasattr(package, "Aggregator")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_importing_loads_no_store_no_xml_and_no_extra():
    """The package's own modules come when they are used."""
    assert run(
        "import sys, maestro_test_result_aggregator\n"
        "print([m for m in ('asyncio', 'sqlite3', 'pandas', 'xml', 'argparse') if m in sys.modules])"
    ) == "[]"  # fmt: skip


def test_the_missing_extra_names_its_install_line():
    """ImportError with the line to type."""
    told = run(
        "import sys; sys.modules['pandas'] = None\n"
        "from maestro_test_result_aggregator import TestResultAggregator\n"
        "try:\n    TestResultAggregator().to_dataframe()\n"
        "except ImportError as e:\n    print(e)\n"
    )
    assert 'pip install "maestro-test-result-aggregator[analytics]"' in told
