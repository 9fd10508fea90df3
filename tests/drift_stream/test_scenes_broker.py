"""Scenarios of the producer through every process to their alert; the bench's question `scenes` plays all eight."""

from __future__ import annotations

from typing import get_args

from producers.scenarios import MODIFIERS
from stream_processors.judging.causes import Kind
from tests.bench._drift_scenes import SCENES, play_all


def test_every_kind_of_cause_has_a_scenario_that_plants_it():
    assert set(SCENES.values()) == set(get_args(Kind))
    assert set(SCENES) <= set(MODIFIERS)


def test_a_scenario_pages_once_and_the_page_names_its_cause(broker, tmp_path):
    # one is known by the lake's rejects in the reference, one by the dataset rules that compact tells
    for played in play_all(tmp_path, broker, ("null-burst", "duplicate-producer")):
        assert (played.early, played.pages, played.right) == (0, 1, True), played
