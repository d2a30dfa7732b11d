"""An example of a package that extends tunetrail. No module is imported before its name is used."""
