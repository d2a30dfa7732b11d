"""The stages of a run, a module each: prepare, cross-validate, fit, evaluate, deploy."""
