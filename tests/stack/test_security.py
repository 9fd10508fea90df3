"""The secured broker: TLS + SCRAM for everybody, and each principal denied all that is not in the table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import access, security, topics
from pipeline.broker import Broker
from pipeline.errors import Unreachable, UsageError
from pipeline.kafka import committed, consumer, create_topics, producer, reach, read_all
from pipeline.settings import Security, Settings
from tests.waiting import wait_until

# The first of a principal without any topic to write: it may not even have an idempotent producer's id.
DENIED = {KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._FATAL, KafkaError.TOPIC_AUTHORIZATION_FAILED}
UNREADABLE = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("secured") / "broker", security="scram") as broker:
        create_topics(broker.settings(), topics.all_topics("sales", 1))
        assert security.grant(broker.settings(), access.grants("sales")) > 20
        yield broker


def write(settings: Settings, topic: str, value: bytes) -> KafkaError | None:
    """The broker's answer to one record; None = taken."""
    answers: list[KafkaError | None] = []
    client = producer(settings, "test")
    client.produce(topic, value, on_delivery=lambda error, message: answers.append(error))
    wait_until(lambda: client.flush(1) == 0 and answers, 60, "the broker's answer")
    return answers[0]


def test_records_go_in_and_out_over_tls_with_scram(secured):
    assert write(secured.settings("producer"), "sales.events", b"{}") is None
    assert b"{}" in [m.value() for m in read_all(secured.settings("validator"), "sales.events", deadline_s=20)]


def test_a_transaction_runs_under_the_principals_own_ids(secured):
    client = producer(secured.settings("validator"), "test", transactional_id="driftline.sales.validate.0")
    client.init_transactions(60)
    client.begin_transaction()
    client.produce("sales.valid", b"{}")
    client.commit_transaction(60)


def test_another_principals_transactional_id_is_denied(secured):
    client = producer(secured.settings("evaluate"), "test", transactional_id="driftline.sales.validate.0")
    with pytest.raises(KafkaException) as error:
        client.init_transactions(60)
    assert error.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


ALL = [t.name for t in topics.all_topics("sales", 1)]
NOT_WRITABLE = [(r.principal, t) for r in access.roles("sales") for t in ALL if t not in r.writes]


@pytest.mark.parametrize("principal", [r.principal for r in access.roles("sales")])
def test_every_topic_that_is_not_listed_is_denied_for_writing(secured, principal):
    denied = [t for p, t in NOT_WRITABLE if p == principal]
    assert set(answers_to_writes(secured.settings(principal), denied).values()) <= DENIED


def answers_to_writes(settings: Settings, wanted: list[str]) -> dict[str, int | None]:
    """Topic -> error code; a principal that may write nothing is refused the producer's id, so its client gives up."""
    answers: dict[str, int | None] = {}
    client = producer(settings, "test")
    try:
        for topic in wanted:
            client.produce(topic, b"x", on_delivery=lambda e, m: answers.update({m.topic(): e and e.code()}))
        wait_until(lambda: client.poll(0.2) >= 0 and set(answers) == set(wanted), 60, "the broker's answers")
    except KafkaException as refused:
        return {topic: refused.args[0].code() for topic in wanted}
    return answers


@pytest.mark.parametrize("principal", [r.principal for r in access.roles("sales")])
def test_every_topic_that_is_not_listed_is_denied_for_reading(secured, principal):
    [role] = [r for r in access.roles("sales") if r.principal == principal]
    client = consumer(secured.settings(principal), "read-test")
    try:
        for topic in [t for t in ALL if t not in role.reads]:
            assert refusal(client, topic) in UNREADABLE, topic
    finally:
        client.close()


def refusal(client: Consumer, topic: str) -> int | None:
    """The error code that a reader of the topic gets; one who may write it may find it, and is refused the records."""
    found = client.list_topics(topic, timeout=10).topics[topic].error
    if found is not None:
        return found.code()
    client.assign([TopicPartition(topic, 0, 0)])
    message = wait_until(lambda: client.poll(0.5), 60, f"an answer about {topic}")
    return message.error() and message.error().code()


def test_a_process_that_may_not_create_topics_goes_on_without(secured, capsys):
    assert create_topics(secured.settings("producer"), topics.all_topics("sales", 1)) == []
    assert "topic_not_created" in capsys.readouterr().err


def test_a_foreign_group_is_denied(secured):
    client = consumer(secured.settings("score"), "driftline.sales.compact")
    try:
        client.subscribe(["sales.blocks"])
        message = wait_until(lambda: client.poll(1), 60, "an answer")
        assert message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    finally:
        client.close()


def test_drift_may_ask_how_far_the_scorer_is_and_neither_move_it_nor_anybody_else(secured):
    place = TopicPartition("sales.blocks", 0, 1)
    client = consumer(secured.settings("drift"), "driftline.sales.score")
    try:
        before = committed(client, place.topic, [0])[0].offset  # asks again while the coordinator is not ready
        with pytest.raises(KafkaException):
            client.commit(offsets=[place], asynchronous=False)
        assert committed(client, place.topic, [0])[0].offset == before != place.offset
    finally:
        client.close()
    stranger = consumer(secured.settings("compactor"), "driftline.sales.score")
    try:
        with pytest.raises(KafkaException):  # refused, or looking for a coordinator until its time is up
            stranger.committed([place], 4)
    finally:
        stranger.close()


def test_a_wrong_password_gets_nowhere(secured, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("not it")
    settings = secured.settings()
    settings = replace(settings, security=replace(settings.security, password_file=str(wrong)))
    with pytest.raises(Unreachable):
        reach(settings, deadline_s=1)


def test_a_client_that_trusts_another_authority_does_not_talk_to_the_broker(secured, tmp_path):
    other = security.ensure(tmp_path / "other")
    settings = secured.settings()
    settings = replace(settings, security=replace(settings.security, ca_file=str(other.authority)))
    with pytest.raises(Unreachable):
        reach(settings, deadline_s=1)


def test_without_tls_nobody_is_let_in(secured):
    with pytest.raises(Unreachable):
        reach(replace(secured.settings(), security=Security()), deadline_s=1)


def test_keys_and_passwords_are_private_and_stay_the_same(tmp_path):
    keys = security.ensure(tmp_path / "security")
    first = security.passwords(keys)
    assert security.passwords(security.ensure(tmp_path / "security")) == first
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in keys.folder.iterdir()} == {0o600}
    assert len(set(first.values())) == len(first)


def test_no_secret_is_in_the_settings_that_a_log_shows(tmp_path):
    keys = security.ensure(tmp_path / "security")
    shown = repr(security.client_profile(keys.folder, "operator"))
    assert not any(password in shown for password in security.passwords(keys).values())


def test_an_unknown_principal_is_refused_with_the_known_ones(tmp_path):
    security.ensure(tmp_path / "security")
    with pytest.raises(UsageError, match="validator"):
        security.client_profile(tmp_path / "security", "nobody")


def test_no_principal_may_write_what_the_checks_of_another_rest_on():
    writers = {t: {r.principal for r in access.roles("sales") if t in r.writes} for t in ALL}
    assert writers["sales.valid"] == writers["sales.blocks"] == {"validator"}
    assert writers[topics.LEDGER] == {"control"}
    assert writers[topics.ALERTS] == {"drift", "evaluate"}
