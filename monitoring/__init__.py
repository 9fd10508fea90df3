"""The metric catalogue, and what is generated from it: rules, dashboards, pages."""
