from monitoring.charts import Series, line_chart
from monitoring.page import Page, Section, Table, drift_page, html

VERDICT = {
    "window_start": "2026-01-01T00:00:00.000Z", "window_end": "2026-01-01T01:00:00.000Z", "feature": "price", "segment": "*", "n": 5000,
    "statistic": 0.31, "critical_value": 0.02, "p_value": 0.0, "psi": 0.4, "e_value": 90.0, "threshold": 18.0, "state": "alarm", "change": "scale x1.25", "revision": 0,
}  # fmt: skip
ALERT = {
    "episode": "e1", "source": "data", "state": "firing", "event_time": "2026-01-01T01:00:00.000Z", "onset": "2026-01-01T00:30:00.000Z", "resolution": None,
    "features": [{"feature": "price", "segment": "*", "change": "scale x1.25", "statistic": 0.31}],
}  # fmt: skip


def test_the_page_shows_window_episode_and_decision():
    entry = {
        "seq": 2,
        "at": "2026-01-01T02:00:00.000Z",
        "action": "promote",
        "version": "2",
        "former": "1",
        "actor": "control",
        "reason": "superior",
    }
    text = html(drift_page("sales", [VERDICT], [ALERT], [entry]))
    for expected in ("price", "scale x1.25", "firing", "promote", "superior", "polyline"):
        assert expected in text


def test_an_empty_page_says_so():
    text = html(drift_page("sales", [], [], []))
    assert "no window has closed yet" in text and "no data yet" in text and "no episode so far" in text


def test_text_from_data_is_escaped():
    hostile = "</script><script>alert(1)</script>"
    text = html(Page(hostile, hostile, (Section(hostile, hostile, table=Table((hostile,), [(hostile,)])),)))
    assert "<script>" not in text
    assert "<script>" not in line_chart([Series(hostile, [(0, 1.0), (1, 2.0)])])


def test_a_missing_value_breaks_the_line_and_is_not_drawn():
    chart = line_chart([Series("a", [(0, 1.0), (1, None), (2, float("nan")), (3, 2.0), (4, 3.0)])])
    assert chart.count("<polyline") == 2 and "nan" not in chart
