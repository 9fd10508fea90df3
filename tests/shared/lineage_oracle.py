"""An event as OpenLineage's own client writes it, made of the client's classes: what ours must be equal to."""

from __future__ import annotations

import json

from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

FACETS = {
    "datasetVersion": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "datasetType": facet_v2.dataset_type_dataset.DatasetTypeDatasetFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "dataQualityAssertions": facet_v2.data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet,
    "inputStatistics": facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "tags": facet_v2.tags_run.TagsRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
}
PARTS = {
    "schema": ("fields", facet_v2.schema_dataset.SchemaDatasetFacetFields),
    "dataQualityAssertions": ("assertions", facet_v2.data_quality_assertions_dataset.Assertion),
    "tags": ("tags", facet_v2.tags_run.TagsRunFacetFields),
}


def as_the_client_writes_it(event: dict) -> dict:
    """The same event from the client's classes: a field that they do not know is a TypeError, a wrong value a ValueError."""
    run, job = event["run"], event["job"]
    made = event_v2.RunEvent(
        eventType=event_v2.RunState(event["eventType"]),
        eventTime=event["eventTime"],
        run=event_v2.Run(run["runId"], _facets(run["facets"])),
        job=event_v2.Job(job["namespace"], job["name"], _facets(job["facets"])),
        inputs=[
            event_v2.InputDataset(d["namespace"], d["name"], _facets(d["inputFacets"]), facets=_facets(d["facets"]))
            for d in event["inputs"]
        ],
        outputs=[
            event_v2.OutputDataset(d["namespace"], d["name"], _facets(d["outputFacets"]), facets=_facets(d["facets"]))
            for d in event["outputs"]
        ],
        producer=event["producer"],
    )
    return json.loads(Serde.to_json(made))


def _facets(facets: dict) -> dict:
    made = {}
    for name, given in facets.items():
        fields = {k.removeprefix("_") if k == "_producer" else k: v for k, v in given.items() if k != "_schemaURL"}
        if name in PARTS:
            column, part = PARTS[name]
            fields[column] = [part(**item) for item in fields[column]]
        made[name] = FACETS[name](**fields)
    return made
