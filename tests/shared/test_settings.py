from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import from_environment


def test_defaults_are_local_and_under_one_home():
    settings = from_environment({}, cwd=Path("/somewhere"))
    assert (str(settings.home), settings.lake) == ("/somewhere/.driftline", "/somewhere/.driftline/lake")
    assert settings.bootstrap == "127.0.0.1:9092"


def test_a_moved_port_moves_what_is_derived_from_it():
    settings = from_environment({"DRIFTLINE_KAFKA_PORT": "19092", "DRIFTLINE_SERVING_PORT": "13000"})
    assert (settings.bootstrap, settings.serving) == ("127.0.0.1:19092", "http://127.0.0.1:13000")


@pytest.mark.parametrize("value", ["0", "65536", "x", "-1", ""])
def test_a_wrong_port_is_named_with_its_range(value):
    with pytest.raises(UsageError, match=r"DRIFTLINE_KAFKA_PORT=.* is not a port from 1 to 65535; the default is 9092"):
        from_environment({"DRIFTLINE_KAFKA_PORT": value})


def test_an_unknown_security_profile_is_named():
    with pytest.raises(UsageError, match="DRIFTLINE_SECURITY=tls is not one of: plain, scram"):
        from_environment({"DRIFTLINE_SECURITY": "tls"})
