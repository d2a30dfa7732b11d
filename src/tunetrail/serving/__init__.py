"""Serving: root over HTTP, in the forms of OpenAI's and of MLflow's servers."""
