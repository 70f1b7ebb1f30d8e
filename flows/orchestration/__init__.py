"""Prefect: deployments, automations, the server child, logs, and the doctor."""
