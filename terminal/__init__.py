"""How a script meets a person: flags, mistakes, progress, and files that appear whole or not at all."""
