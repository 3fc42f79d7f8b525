"""Stands before matplotlib on the path of most processes of the tests: theirs is a machine without it."""

raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
