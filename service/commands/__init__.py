"""The commands of the command line, a module each; `sparsight.service.cli` puts them together."""
