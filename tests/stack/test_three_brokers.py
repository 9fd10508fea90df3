"""Three brokers with three copies of everything: any one of them may die at any moment, and nothing is lost or repeated."""

from __future__ import annotations

import pytest

from pipeline import processes
from pipeline.broker import Broker, prepare
from pipeline.broker_config import Node, properties
from pipeline.errors import UsageError
from pipeline.settings import PORTS, from_environment, with_brokers
from tests.stack import broker_loss

KILLS = 4


@pytest.mark.timeout(900)
def test_leaders_killed_under_load_lose_and_repeat_nothing(tmp_path):
    outcome = broker_loss.run(tmp_path, KILLS)
    assert (outcome.kills, outcome.lost, outcome.repeated) == (KILLS, 0, 0)
    found = outcome.verified
    assert found["ok"] and found["drained"], found
    assert (found["missing_total"], found["duplicated_total"]) == (0, 0)
    assert found["consumed"] == found["produced"] >= outcome.acknowledged > 0


def test_what_is_acknowledged_is_in_two_of_three_and_no_broker_without_it_may_lead(tmp_path):
    nodes = [Node(9092 + n, 19093 + n) for n in range(3)]
    three = properties(tmp_path, nodes, 2)
    assert three["default.replication.factor"] == three["transaction.state.log.replication.factor"] == "3"
    assert three["min.insync.replicas"] == three["transaction.state.log.min.isr"] == "2"
    assert three["unclean.leader.election.enable"] == "false"
    assert (three["node.id"], three["advertised.listeners"]) == ("2", "CLIENT://127.0.0.1:9093")
    assert three["controller.quorum.voters"] == "1@127.0.0.1:19093,2@127.0.0.1:19094,3@127.0.0.1:19095"
    assert properties(tmp_path, nodes[:1])["default.replication.factor"] == "1"


def test_the_stack_has_as_many_brokers_as_it_is_told():
    settings = from_environment({"DRIFTLINE_BROKERS": "3", "DRIFTLINE_HOME": "/h"})
    assert settings.bootstrap == "127.0.0.1:9092,127.0.0.1:9192,127.0.0.1:9292"
    assert with_brokers(settings, 1).bootstrap == "127.0.0.1:9092"
    assert with_brokers(from_environment({"DRIFTLINE_BOOTSTRAP": "k:1"}), 3).bootstrap == "k:1"
    place = processes.Place(("driftline",), "/h", PORTS, "sales", brokers=3)
    table = [processes.kafka(place, n) for n in (1, 2, 3)]
    assert [(p.name, p.port, p.command[3]) for p in table] == [
        ("kafka", 9092, "/h/kafka"),
        ("kafka-2", 9192, "/h/kafka-2"),
        ("kafka-3", 9292, "/h/kafka-3"),
    ]
    assert all(f"{PORTS['kafka']}:{PORTS['kafka_controller']}" in p.command for p in table)
    with pytest.raises(UsageError, match="DRIFTLINE_BROKERS=2 is not one of: 1, 3"):
        from_environment({"DRIFTLINE_BROKERS": "2"})


def test_a_home_made_for_one_broker_is_not_run_with_three(tmp_path):
    one = Broker(tmp_path / "kafka")
    prepare(one.directory, one.nodes)
    with pytest.raises(UsageError, match="was made for 1 brokers, 3 were asked for: set DRIFTLINE_BROKERS=1"):
        prepare(one.directory, [Node(1, 2), Node(3, 4), Node(5, 6)])
